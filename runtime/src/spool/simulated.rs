//! A disk for tests: it loses what was not synced, tears writes, and fails or dies at the operation it is told to.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::io::Errno;

use super::disk::{Disk, DiskFile};

/// What a disk writes whole.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The machine stops: this operation may have begun, and nothing works any more.
    Crash,
    /// A write gets half done; a sync fails, and its pages count as clean from then on.
    Error(Errno),
    /// The operation is done, and fails all the same.
    Late(Errno),
    /// As `Error`; the next operation is a crash.
    Last(Errno),
}

/// What is left after the process or the machine has died.
#[derive(Debug, Clone, Copy)]
pub enum Restart {
    /// The kernel lives on: all that was written is there.
    Kill,
    /// What was not synced is gone.
    PowerCut,
    /// Of what was not synced, any sectors and any names may have made it.
    Torn(u64),
}

#[derive(Clone, Default)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Node>,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    struck: bool,
    crashed: bool,
    free: u64,
    locked: Arc<AtomicBool>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            directories: BTreeSet::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            operations: 0,
            fault: None,
            struck: false,
            crashed: false,
            free: u64::MAX,
            locked: Arc::default(),
        }
    }
}

#[derive(Clone, Default)]
struct Node {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Since the last sync.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, octets) => {
                let end = offset + octets.len();
                content.resize(content.len().max(end), 0);
                content[*offset..end].copy_from_slice(octets);
            }
            Self::Truncate(len) => content.resize(*len, 0),
        }
    }
}

impl Node {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn tear(&mut self, random: &mut StdRng) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(offset, octets) => {
                    for (number, sector) in octets.chunks(SECTOR).enumerate() {
                        if random.random_bool(0.5) {
                            Change::Write(offset + number * SECTOR, sector.to_vec()).apply(&mut self.durable);
                        }
                    }
                }
                change if random.random_bool(0.5) => change.apply(&mut self.durable),
                Change::Truncate(_) => {}
            }
        }
    }
}

/// What becomes of one operation.
struct Gate<'a> {
    state: MutexGuard<'a, State>,
    error: Option<io::Error>,
    /// It is done whole, whatever is said about it.
    done: bool,
}

impl Gate<'_> {
    fn answer(self) -> io::Result<()> {
        self.error.map_or(Ok(()), Err)
    }
}

impl SimulatedDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// The fault strikes at this operation, counted from now: 1 is the next one.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.operations + operation, fault));
    }

    /// The fault was reached.
    pub fn has_failed(&self) -> bool {
        self.state().struck
    }

    pub fn set_free(&self, octets: u64) {
        self.state().free = octets;
    }

    /// The disk that the next process finds.
    pub fn restart(&self, how: Restart) -> Self {
        let mut state = self.state().clone();
        (state.fault, state.struck, state.crashed, state.locked) = (None, false, false, Arc::default());
        let seed = match how {
            Restart::Kill => return Self { state: Arc::new(Mutex::new(state)) },
            Restart::PowerCut => None,
            Restart::Torn(seed) => Some(seed),
        };
        let mut random = StdRng::seed_from_u64(seed.unwrap_or_default());
        for node in &mut state.nodes {
            if seed.is_some() {
                node.tear(&mut random);
            }
            node.pending.clear();
            node.cached = node.durable.clone();
        }
        if seed.is_some() {
            let paths: BTreeSet<_> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
            for path in paths.into_iter().filter(|_| random.random_bool(0.5)) {
                match state.names.get(&path) {
                    Some(node) => state.durable_names.insert(path, *node),
                    None => state.durable_names.remove(&path),
                };
            }
        }
        state.names = state.durable_names.clone();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Files with their content, as the kernel shows them.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(path, node)| (path.clone(), state.nodes[*node].cached.clone())).collect()
    }

    /// Rot: octets change where they lie.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let node = state.names[path];
        let node = &mut state.nodes[node];
        change(&mut node.cached);
        node.durable = node.cached.clone();
        node.pending.clear();
    }

    /// An `rm -rf` of one directory.
    pub fn remove_directory(&self, path: &Path) {
        let mut state = self.state();
        state.names.retain(|name, _| !name.starts_with(path));
        state.durable_names.retain(|name, _| !name.starts_with(path));
        state.directories.remove(path);
    }

    /// As an administrator's `rm -rf` does.
    pub fn remove_all(&self) {
        let mut state = self.state();
        state.names.clear();
        state.durable_names.clear();
        state.directories.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn step(&self) -> io::Result<Gate<'_>> {
        let mut state = self.state();
        if state.crashed {
            return Err(io::Error::other("crashed"));
        }
        state.operations += 1;
        let Some((at, fault)) = state.fault.filter(|(at, _)| *at == state.operations) else {
            return Ok(Gate { state, error: None, done: true });
        };
        state.struck = true;
        let (error, done) = match fault {
            Fault::Crash => {
                state.crashed = true;
                (io::Error::other("crashed"), false)
            }
            Fault::Error(error) => (error.into(), false),
            Fault::Late(error) => (error.into(), true),
            Fault::Last(error) => {
                state.fault = Some((at + 1, Fault::Crash));
                (error.into(), false)
            }
        };
        Ok(Gate { state, error: Some(error), done })
    }

    /// For operations that are done or not, but never in part.
    fn whole_step<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut gate = self.step()?;
        let done = if gate.done { Some(work(&mut gate.state)) } else { None };
        gate.answer()?;
        done.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))
    }
}

impl Disk for SimulatedDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        self.whole_step(|state| {
            state.directories.insert(path.to_owned());
            Ok(())
        })
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let locked = self.state().locked.clone();
        if locked.swap(true, Ordering::SeqCst) {
            return Ok(None);
        }
        Ok(Some(Box::new(Unlock(locked))))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(inside.map(|(path, node)| (name(path), state.nodes[*node].cached.len() as u64)).collect())
    }

    fn has_directory(&self, path: &Path) -> bool {
        self.state().directories.contains(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = self.whole_step(|state| {
            if !path.parent().is_some_and(|parent| state.directories.contains(parent)) {
                return Err(Errno::NOENT.into());
            }
            if state.names.contains_key(path) {
                return Err(Errno::EXIST.into());
            }
            let node = state.nodes.len();
            state.nodes.push(Node::default());
            state.names.insert(path.to_owned(), node);
            Ok(node)
        })?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), node }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let node = self.whole_step(|state| Ok(*state.names.get(path).ok_or(Errno::NOENT)?))?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), node }))
    }

    /// A file from outside comes in with all of its content unsynced.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole_step(|state| {
            if state.names.contains_key(to) {
                return Err(Errno::EXIST.into());
            }
            let known = state.names.get(from).copied();
            let node = match known {
                Some(node) => node,
                None => {
                    let mut node = Node::default();
                    node.change(Change::Write(0, std::fs::read(from)?));
                    state.nodes.push(node);
                    state.nodes.len() - 1
                }
            };
            state.names.insert(to.to_owned(), node);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole_step(|state| state.names.remove(path).map(drop).ok_or(Errno::NOENT.into()))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let inside = |name: &Path| name.parent() == Some(path);
        self.whole_step(|state| {
            state.durable_names.retain(|name, _| !inside(name));
            let names = state.names.iter().filter(|(name, _)| inside(name));
            state.durable_names.extend(names.map(|(name, node)| (name.clone(), *node)));
            Ok(())
        })
    }

    fn free_octets(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.state().free)
    }
}

struct Unlock(Arc<AtomicBool>);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    node: usize,
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut octets = parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>();
        let mut gate = self.disk.step()?;
        if !gate.done && !gate.state.crashed {
            octets.truncate(octets.len() / 2);
        }
        gate.state.nodes[self.node].change(Change::Write(usize::try_from(offset).unwrap(), octets));
        gate.answer()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.disk.whole_step(|state| {
            let content = state.nodes[self.node].cached.get(offset..offset + buffer.len());
            buffer.copy_from_slice(content.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().nodes[self.node].cached.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.whole_step(|state| {
            state.nodes[self.node].change(Change::Truncate(usize::try_from(len).unwrap()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut gate = self.disk.step()?;
        if gate.done {
            gate.state.nodes[self.node].sync();
        } else if !gate.state.crashed {
            gate.state.nodes[self.node].pending.clear();
        }
        gate.answer()
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()?;
        let node = &mut self.disk.state().nodes[self.node];
        node.cached = node.durable.clone();
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        self.disk.state().names.get(path) == Some(&self.node)
    }

    fn into_std(self: Box<Self>) -> Result<File, Box<dyn DiskFile>> {
        Err(self)
    }
}
