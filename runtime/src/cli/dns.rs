//! `postern dns`: what DNS says of the gateway and its tenants against what it should say, and what to publish.
//!
//! [`expectation`] comes from the config, [`observation`] from DNS; [`compare`] and [`plan`] put them side by side and ask
//! nobody. A record is *missing* only when DNS has said so; where it had no answer, it is *unknown*.

mod blocklists;
mod compare;
mod dmarc;
mod expectation;
mod finding;
mod gateway;
mod letter;
mod observation;
mod plan;
mod provider;
mod records;
mod spf;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::terminal::json_line;
use super::{CliError, Context, OK, Streams};
use crate::authentication::Verifier;
use crate::config::Settings;
use crate::config::value::FromText as _;
use crate::config::value::name::DnsServer;
use crate::dns::blocklist::Subject;
use crate::dns::{DnsError, Resolver, zone};
use crate::metrics::Metrics;
use crate::server::{reputation, setup};
use crate::signing::{self, Selector};
use crate::smtp::Domain;
use expectation::{Expectation, Gateway, Key};
use finding::Finding;
use letter::Language;
use observation::{Observation, observe, observe_gateway};
use plan::{Obstacle, plan};

/// Domains that are looked up at a time.
const DOMAINS: usize = 16;

#[derive(Debug, Subcommand)]
pub enum Dns {
    /// Compare what DNS says with what it should say. Ends with 1 when something is wrong, with 3 when DNS had no answer.
    Check {
        /// Without it: the domains of all tenants.
        #[arg(value_name = "DOMAIN", value_parser = domain)]
        domain: Option<Domain>,
        #[command(flatten)]
        server: Server,
    },
    /// Print the records to publish, as lines of a zone file.
    Records {
        #[arg(value_name = "DOMAIN", value_parser = domain, required_unless_present = "egress")]
        domain: Option<Domain>,
        /// Only the addresses from which mail leaves, one a line, for firewalls and connectors.
        #[arg(long, conflicts_with = "domain")]
        egress: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Write the letter by which a customer asks the DNS operator for the changes.
    Letter {
        #[arg(value_name = "DOMAIN", value_parser = domain)]
        domain: Domain,
        /// The letter's language.
        #[arg(long, value_name = "LANGUAGE", default_value = "en")]
        lang: Language,
        #[command(flatten)]
        server: Server,
    },
    /// Ask the configured block lists about the egress addresses and the tenants' domains. Ends with 1 when one is listed,
    /// with 3 when a list had no answer.
    Blocklists {
        #[command(flatten)]
        server: Server,
    },
}

#[derive(Debug, Args)]
pub struct Server {
    /// Ask this name server instead of those of the config: an IP address, perhaps with a port.
    #[arg(long, value_name = "ADDRESS", value_parser = name_server)]
    pub server: Option<SocketAddr>,
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::from_text(text)
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    DnsServer::from_text(text).map(|server| server.0)
}

pub(super) fn run(dns: &Dns, context: &Context<'_>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
    let settings = context.settings()?;
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
    let server = match dns {
        Dns::Check { server, .. } | Dns::Records { server, .. } => server,
        Dns::Letter { server, .. } | Dns::Blocklists { server } => server,
    };
    let mut asked = setup::dns(&settings);
    if let Some(server) = server.server {
        (asked.servers, asked.system) = (vec![server], false);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let metrics = Metrics::new().map_err(|error| failed(&error))?;
        let metrics = Arc::new(metrics);
        let resolver = Resolver::new(asked, metrics.clone()).map_err(|error| failed(&error))?;
        let verifier = Verifier::new(resolver.clone(), setup::authentication(&settings), metrics);
        let tools = Tools { settings: &settings, resolver: &resolver, verifier, context };
        match dns {
            Dns::Check { domain, .. } => tools.check(domain.as_ref(), streams).await,
            Dns::Records { domain: Some(domain), .. } => {
                let (expectation, observation) = tools.look_at(domain).await?;
                records::show(&expectation, &observation, context, streams)
            }
            Dns::Records { domain: None, .. } => records::show_egress(&tools.egress().await?, context, streams),
            Dns::Letter { domain, lang, .. } => tools.letter(domain, *lang, streams).await,
            Dns::Blocklists { .. } => tools.blocklists(streams).await,
        }
    })
}

struct Tools<'a> {
    settings: &'a Settings,
    resolver: &'a Resolver,
    verifier: Verifier,
    context: &'a Context<'a>,
}

impl Tools<'_> {
    fn expectation(&self, domain: &Domain) -> Result<Expectation, CliError> {
        let ring = &self.settings.signing.keys;
        let pairs = ring.selectors(domain).filter_map(|selector| Some((selector, ring.key(domain, selector)?)));
        let key = |(selector, key): (&Selector, &Arc<signing::Key>)| {
            let record =
                key.record().map_err(|error| CliError::Failed(format!("key {selector} of {domain}: {error}")))?;
            Ok::<_, CliError>(Key { selector: selector.to_string(), record })
        };
        Ok(Expectation::of(domain, self.settings, pairs.map(key).collect::<Result<_, _>>()?))
    }

    async fn look_at(&self, domain: &Domain) -> Result<(Expectation, Observation), CliError> {
        let expectation = self.expectation(domain)?;
        let egress = reputation::egress(self.settings, self.resolver).await.unwrap_or_default();
        let observation = observe(self.resolver, &self.verifier, &expectation, &egress).await;
        Ok((expectation, observation))
    }

    async fn check(&self, domain: Option<&Domain>, streams: &mut Streams<'_>) -> Result<u8, CliError> {
        let domains = domain.map_or_else(|| reputation::domains(self.settings), |domain| vec![domain.clone()]);
        let own = Gateway::of(self.settings);
        let about_us = gateway::compare(&own, &observe_gateway(self.resolver, &own).await);
        let found = self.findings(&domains).await?;
        if self.context.json {
            let list: Vec<_> = found
                .iter()
                .map(|(domain, findings)| json!({ "domain": domain.as_str(), "findings": findings }))
                .collect();
            let gateway = json!({ "host_name": own.host_name.as_str(), "findings": about_us });
            writeln!(streams.out, "{}", json_line(&json!({ "gateway": gateway, "domains": list })))?;
        } else {
            writeln!(streams.out, "gateway {}", own.host_name)?;
            about_us.iter().try_for_each(|finding| finding.print(streams))?;
            for (domain, findings) in &found {
                writeln!(streams.out, "\n{domain}")?;
                findings.iter().try_for_each(|finding| finding.print(streams))?;
            }
        }
        Ok(finding::exit_code(about_us.iter().chain(found.iter().flat_map(|(_, findings)| findings))))
    }

    /// In the order of the domains.
    async fn findings(&self, domains: &[Domain]) -> Result<Vec<(Domain, Vec<Finding>)>, CliError> {
        // What can't be looked up is told of the gateway, not of each domain.
        let egress: Arc<[IpAddr]> = reputation::egress(self.settings, self.resolver).await.unwrap_or_default().into();
        let permits = Arc::new(Semaphore::new(DOMAINS));
        let mut questions = JoinSet::new();
        for domain in domains {
            let expectation = self.expectation(domain)?;
            let (resolver, verifier) = (self.resolver.clone(), self.verifier.clone());
            let (egress, permits) = (egress.clone(), permits.clone());
            questions.spawn(async move {
                // The semaphore is never closed.
                let _permit = permits.acquire_owned().await;
                let observation = observe(&resolver, &verifier, &expectation, &egress).await;
                let findings = compare::domain(&expectation, &observation);
                (expectation.domain, findings)
            });
        }
        let mut found = questions.join_all().await;
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    /// Those of the config, else those of the host name.
    async fn egress(&self) -> Result<Vec<IpAddr>, CliError> {
        reputation::egress(self.settings, self.resolver).await.map_err(|error| {
            let host_name = &self.settings.server.host_name;
            let text = format!("no `egress_addresses` in [identity], and the addresses of {host_name}: {error}");
            match error {
                DnsError::Temporary(_) => CliError::Unknown(text),
                _ => CliError::Failed(text),
            }
        })
    }

    async fn letter(&self, domain: &Domain, language: Language, streams: &mut Streams<'_>) -> Result<u8, CliError> {
        let (expectation, observation) = self.look_at(domain).await?;
        let changes = plan(&expectation, &observation);
        // A letter that asks for a part of it, or for something that would wipe out what nobody has seen, does harm.
        for change in &changes {
            match &change.edit {
                Err(Obstacle::Unknown { cause, .. }) => {
                    return Err(CliError::Unknown(format!("no letter before DNS says what is there now: {cause}")));
                }
                Err(Obstacle::People(why)) => return Err(CliError::Failed(format!("no letter yet: {why}"))),
                Ok(_) => {}
            }
        }
        let text = letter::write(&expectation, &changes, language);
        if self.context.json {
            let answer = json!({ "domain": domain.as_str(), "language": language.code(), "text": text });
            writeln!(streams.out, "{}", json_line(&answer))?;
        } else if let Some(text) = text {
            write!(streams.out, "{text}")?;
        } else {
            writeln!(streams.err, "{domain}: all records are in place, there is nothing to ask for")?;
        }
        Ok(OK)
    }

    async fn blocklists(&self, streams: &mut Streams<'_>) -> Result<u8, CliError> {
        let lists = &self.settings.identity.blocklists;
        if lists.is_empty() {
            return Err(CliError::Usage("the config has no [[blocklist]] to ask".to_owned()));
        }
        let addresses = self.egress().await?.into_iter().map(Subject::Address);
        let subjects: Vec<Subject> =
            addresses.chain(reputation::domains(self.settings).into_iter().map(Subject::Domain)).collect();
        let rows = blocklists::ask(self.resolver, lists, &subjects).await;
        blocklists::show(&rows, self.context, streams)
    }
}

#[cfg(test)]
mod tests;
