//! From a route to where it leads: hosts to be found one after the other, and what is asked of connections to them. One
//! place, for delivery, for questions about recipients and for `postern route explain`.

use std::sync::Arc;

use super::dispatch::{Delivery, Live};
use super::settings::Login;
use super::target::Search;
use super::{Diagnosis, Outcome};
use crate::mail::{Route, TlsPolicy};
use crate::smtp::{Enhanced, Host};

pub(super) struct Way<'a> {
    pub(super) search: Search<'a>,
    /// What is looked for, to be named where it is not found.
    pub(super) name: String,
    pub(super) terms: Terms,
}

/// What is asked of a connection, besides its address.
pub(super) struct Terms {
    pub(super) tls: TlsPolicy,
    /// With the name of the smart host it is for.
    pub(super) login: Option<(Arc<str>, Login)>,
}

/// No host can be named, or none for now.
pub(super) struct NoWay {
    pub(super) outcome: Outcome,
    /// DNS has no answer for now: what else goes there need not be tried.
    pub(super) down: bool,
}

impl NoWay {
    /// Our own mistake, or the administrator's, who may mend it.
    fn misrouted(text: &str) -> Self {
        Self { outcome: misrouted(text), down: false }
    }
}

impl Delivery {
    /// `host`: what stands behind the `@` of all recipients, where that is one; for [`Route::Mx`] without a domain.
    pub(super) async fn way<'a>(
        &'a self,
        live: &'a Live,
        route: &Route,
        host: Option<&Host>,
    ) -> Result<Way<'a>, NoWay> {
        let (settings, resolvers) = (&live.settings, &self.resolvers);
        let by_mx = Terms { tls: settings.mx_tls, login: None };
        match route {
            Route::Maildir(_) => Err(NoWay::misrouted("A Maildir is on no other host")),
            Route::Mx(domain) => match domain.clone().map(Host::Domain).as_ref().or(host) {
                Some(Host::Domain(domain)) => match Search::by_mx(settings, resolvers, domain).await {
                    Ok(search) => Ok(Way { search, name: domain.to_string(), terms: by_mx }),
                    Err(outcome) => Err(NoWay { down: matches!(outcome, Outcome::Deferred(_)), outcome }),
                },
                Some(literal @ Host::Literal(address)) => {
                    let search = Search::by_literal(settings, resolvers, *address);
                    Ok(Way { search, name: literal.to_string(), terms: by_mx })
                }
                None => Err(NoWay::misrouted("Mail by MX for recipients of different domains")),
            },
            Route::Literal(address) => {
                let search = Search::by_literal(settings, resolvers, *address);
                Ok(Way { search, name: Host::Literal(*address).to_string(), terms: by_mx })
            }
            Route::Host { host, port, tls } => {
                let search = Search::by_host(settings, resolvers, host, *port);
                Ok(Way { search, name: host.to_string(), terms: Terms { tls: *tls, login: None } })
            }
            Route::SmartHost(name) => match settings.smart_hosts.get(name) {
                Some(smart_host) => {
                    let search = Search::by_host(settings, resolvers, &smart_host.host, smart_host.port);
                    let login = smart_host.login.clone().map(|login| (name.clone(), login));
                    let terms = Terms { tls: at_least_verified(smart_host.tls, login.is_some()), login };
                    Ok(Way { search, name: smart_host.host.to_string(), terms })
                }
                // A reload may have taken it away; another may bring it back.
                None => Err(NoWay::misrouted(&format!("No smart host is named {name}"))),
            },
        }
    }
}

/// A password is shown only to a server that has proved its name.
fn at_least_verified(tls: TlsPolicy, with_login: bool) -> TlsPolicy {
    match tls {
        TlsPolicy::Implicit => TlsPolicy::Implicit,
        _ if with_login => TlsPolicy::Verified,
        tls => tls,
    }
}

/// Our own mistake, or the administrator's, who may mend it.
pub(super) fn misrouted(text: &str) -> Outcome {
    Outcome::Deferred(Diagnosis::own(451, Enhanced::new(3, 5), text))
}
