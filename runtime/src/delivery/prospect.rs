//! Where a mail by a route would be handed to, without sending any: for `postern route explain`.

use std::net::SocketAddr;

use super::Delivery;
use super::exchange::Origin;
use super::way::Way;
use crate::mail::{Route, TlsPolicy};
use crate::smtp::{Host, Reply};

/// What would happen.
#[derive(Debug, Clone)]
pub struct Prospect {
    /// In the order in which they are tried; those of equal preference in another one for each mail.
    pub hops: Vec<Hop>,
    pub tls: TlsPolicy,
    /// The user that logs in.
    pub login: Option<String>,
    /// Why there is no host, or not all that there might be.
    pub problem: Option<Reply>,
}

/// One address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub host: String,
    pub address: SocketAddr,
    /// Of the MX record; `None`: config has named the host.
    pub preference: Option<u16>,
    /// Named by the internal DNS (R57).
    pub internal: bool,
}

impl Delivery {
    /// As far as DNS tells now. The route is no Maildir; of one by MX without a domain the recipient's host is needed.
    pub async fn prospect(&self, route: &Route, host: Option<&Host>) -> Prospect {
        let live = self.live.load_full();
        let Way { mut search, name, terms } = match self.way(&live, route, host).await {
            Ok(way) => way,
            Err(no_way) => {
                let problem = Some(no_way.outcome.diagnosis().reply.clone());
                return Prospect { hops: Vec::new(), tls: live.settings.mx_tls, login: None, problem };
            }
        };
        let mut hops = Vec::new();
        while let Some(targets) = search.next().await {
            let rank = search.rank();
            hops.extend(targets.into_iter().map(|target| Hop {
                host: target.host,
                address: target.address,
                preference: rank.map(|(preference, _)| preference),
                internal: rank.is_some_and(|(_, origin)| origin == Origin::Internal),
            }));
        }
        // What delivery would say if none of the hosts took it, and nobody else could be asked.
        let outcome = if hops.is_empty() { Some(search.verdict(&name)) } else { search.temporary(&name) };
        let problem = outcome.map(|outcome| outcome.diagnosis().reply.clone());
        let login = terms.login.map(|(_, login)| login.user);
        Prospect { hops, tls: terms.tls, login, problem }
    }
}
