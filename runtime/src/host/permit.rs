//! How many calls and look-ups may run at a time: a quota of each plugin, under one of the scope that owns it, under a
//! global one.
//!
//! A look-up is waited for within a call and never the other way round, so these don't wait for each other in a circle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::pipeline::Scope;

/// What one reseller or tenant may have of the global quota, all its plugins together: one part of this many.
const SCOPE_PART: usize = 4;

/// The global quota, and those of the scopes.
pub(super) struct Permits {
    all: Arc<Semaphore>,
    of_scope: usize,
    /// Kept by their plugins, and shared by those of before and after a reload.
    scopes: Mutex<HashMap<Scope, Weak<Semaphore>>>,
}

/// One plugin's share.
pub(super) struct Quota {
    /// In the order in which they are acquired: its own, that of its scope, the global one.
    levels: [Option<Arc<Semaphore>>; 3],
}

/// A turn; ends when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    _held: Held<'a>,
}

/// One of each level.
type Held<'a> = [Option<SemaphorePermit<'a>>; 3];

impl Permits {
    pub fn new(all: usize) -> Self {
        Self { all: semaphore(all), of_scope: all / SCOPE_PART, scopes: Mutex::default() }
    }

    /// The platform's plugins have no limit together: who writes them runs the gateway.
    pub fn quota(&self, scope: &Scope, own: usize) -> Quota {
        let of_scope = (*scope != Scope::Platform).then(|| self.of_scope(scope));
        Quota { levels: [Some(semaphore(own)), of_scope, Some(self.all.clone())] }
    }

    fn of_scope(&self, scope: &Scope) -> Arc<Semaphore> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = scopes.get(scope).and_then(Weak::upgrade) {
            return known;
        }
        scopes.retain(|_, scope| scope.strong_count() > 0);
        let made = semaphore(self.of_scope);
        scopes.insert(scope.clone(), Arc::downgrade(&made));
        made
    }
}

impl Quota {
    /// Where nobody has to wait, which is nearly always.
    pub fn turn_at_once(&self) -> Option<Permit<'_>> {
        let mut held = Held::default();
        for (level, held) in self.levels.iter().zip(&mut held) {
            *held = level.as_ref().map(|level| level.try_acquire()).transpose().ok()?;
        }
        Some(Permit { _held: held })
    }

    /// Waits for as long as it takes: the caller gives up by dropping it, which gives back what was acquired by then.
    /// `None` never happens as long as nobody closes a semaphore.
    ///
    /// The order is the same for all, so there is no cycle. The plugin's own permit comes first and the global one
    /// last: what waits for a plugin or scope that is stuck takes nothing from the others.
    pub async fn turn(&self) -> Option<Permit<'_>> {
        let mut held = Held::default();
        for (level, held) in self.levels.iter().zip(&mut held) {
            if let Some(level) = level {
                *held = Some(level.acquire().await.ok()?);
            }
        }
        Some(Permit { _held: held })
    }
}

/// Of one permit at least: with none, nothing would ever run.
fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// `None` when it waits for another to end.
    async fn turn(quota: &Quota) -> Option<Permit<'_>> {
        tokio::time::timeout(Duration::from_secs(1), quota.turn()).await.ok().flatten()
    }

    fn tenant(name: &str) -> Scope {
        Scope::Tenant(Arc::from(name))
    }

    #[test]
    fn at_once_or_not_at_all() {
        let permits = Permits::new(2);
        let (one, other) = (permits.quota(&tenant("a"), 1), permits.quota(&Scope::Platform, 4));
        let held = one.turn_at_once().unwrap();
        assert!(one.turn_at_once().is_none());
        let last = other.turn_at_once().unwrap();
        assert!(other.turn_at_once().is_none(), "the global quota is used up");
        drop(held);
        // What failed half way has given back what it had.
        assert!(one.turn_at_once().is_some());
        drop(last);
        assert_eq!(permits.all.available_permits(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_is_stuck_leaves_room_for_others() {
        let permits = Permits::new(3);
        let (stuck, other) = (permits.quota(&Scope::Platform, 2), permits.quota(&Scope::Platform, 2));
        let held = (turn(&stuck).await.unwrap(), turn(&stuck).await.unwrap());
        assert!(turn(&stuck).await.is_none());
        let third = turn(&other).await.unwrap();
        assert!(turn(&other).await.is_none(), "the global quota is used up");
        drop(held);
        assert!(turn(&other).await.is_some());
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn all_plugins_of_a_tenant_have_a_quarter_together() {
        let permits = Permits::new(8);
        let reseller = permits.quota(&Scope::Reseller(Arc::from("many")), 8);
        let (other, platform) = (permits.quota(&tenant("other"), 8), permits.quota(&Scope::Platform, 8));
        let plugins: Vec<Quota> = (0..8).map(|_| permits.quota(&tenant("many"), 8)).collect();
        let mut held = vec![turn(&plugins[0]).await.unwrap(), turn(&plugins[1]).await.unwrap()];
        for plugin in &plugins {
            assert!(turn(plugin).await.is_none());
        }
        for other in [&other, &reseller] {
            held.push(turn(other).await.unwrap());
        }
        for _ in 0..4 {
            held.push(turn(&platform).await.unwrap());
        }
        assert!(turn(&platform).await.is_none(), "the global quota is used up");
        drop(held);
        assert_eq!(permits.all.available_permits(), 8);
        assert!(turn(&plugins[7]).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_gives_back_what_it_had() {
        let permits = Permits::new(4);
        let (one, other) = (permits.quota(&tenant("a"), 1), permits.quota(&tenant("a"), 1));
        let held = turn(&one).await.unwrap();
        // It has its own permit, and waits for the scope's.
        assert!(turn(&other).await.is_none());
        drop(held);
        assert!(turn(&other).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_does_not_double_a_scopes_share() {
        let permits = Permits::new(4);
        let before = permits.quota(&tenant("a"), 4);
        let held = turn(&before).await.unwrap();
        // A call of the old plugin is under way.
        let after = permits.quota(&tenant("a"), 4);
        assert!(turn(&after).await.is_none());
        drop(held);
        assert!(turn(&after).await.is_some());
        drop((before, after));
        permits.quota(&tenant("b"), 4);
        permits.quota(&tenant("c"), 4);
        assert_eq!(permits.scopes.lock().unwrap().len(), 1, "a scope without plugins is forgotten");
    }
}
