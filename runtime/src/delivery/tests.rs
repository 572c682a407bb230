//! Against next hops that follow a script: in memory where time is to pass, over loopback where hosts are chosen.

mod conversation;
mod routing;
mod security;

use std::sync::Arc;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::connection::{Connection, Opening};
use super::failure::Failure;
use super::script::{Played, play};
use super::tls::Connectors;
use super::transaction::{self, Outcomes, Outgoing};
use super::*;
use crate::mail::{Body, Header, Recipient, TlsPolicy};
use crate::smtp::{Mailbox, ReversePath};

const MESSAGE: &str = "Subject: x\r\n\r\nHello\r\n.\r\n..\r\n";
const ON_THE_WIRE: &[u8] = b"Subject: x\r\n\r\nHello\r\n..\r\n...\r\n.\r\n";

fn message(text: &[u8]) -> Message {
    let end = text.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let header = Header::parse(&Bytes::copy_from_slice(&text[..end + 2]));
    Message { header, body: Body::from_bytes(Bytes::copy_from_slice(&text[end + 4..])) }
}

fn job(route: Route, recipients: &[&str]) -> Job {
    let mut envelope = Envelope::new(ReversePath(Some(Mailbox::parse("from@us.example").unwrap())));
    envelope.recipients =
        recipients.iter().map(|recipient| Recipient::new(Mailbox::parse(recipient).unwrap())).collect();
    Job { id: MessageId::next(), route, envelope, message: message(MESSAGE.as_bytes()) }
}

/// `deferred 451 4.4.2 own`: what became of it, and who says so.
fn brief(outcome: &Outcome) -> String {
    let kind = match outcome {
        Outcome::Delivered(_) => "delivered",
        Outcome::Deferred(_) => "deferred",
        Outcome::Failed(_) => "failed",
    };
    let Diagnosis { reply, remote, .. } = outcome.diagnosis();
    format!("{kind} {} {} {}", reply.code(), reply.status(), if *remote { "remote" } else { "own" })
}

fn briefs(outcomes: &[Outcome]) -> Vec<String> {
    outcomes.iter().map(brief).collect()
}

/// A conversation in memory, from greeting to outcome.
struct Talk {
    outcomes: Vec<Outcome>,
    failure: Option<Failure>,
    played: Played,
}

impl Talk {
    fn brief(&self) -> String {
        briefs(&self.outcomes).join(", ")
    }
}

#[derive(Default)]
struct Terms {
    settings: Settings,
    tls: Option<TlsPolicy>,
    login: Option<Login>,
    acceptor: Option<TlsAcceptor>,
}

async fn talk(script: &str, job: &Job) -> Talk {
    talk_with(script, job, Terms::default()).await
}

async fn talk_with(script: &str, job: &Job, terms: Terms) -> Talk {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (script, acceptor) = (script.to_owned(), terms.acceptor.clone());
    let server = tokio::spawn(async move { play(Box::new(theirs), &script, acceptor.as_ref()).await });
    let connectors = Connectors::new(&terms.settings).unwrap();
    let opening = Opening {
        hello: "us.example",
        host: "mx.example",
        tls: terms.tls.unwrap_or(TlsPolicy::Never),
        login: terms.login.as_ref(),
        connectors: &connectors,
        timeouts: &terms.settings.timeouts,
    };
    let mut outcomes: Outcomes = vec![None; job.envelope.recipients.len()];
    let mail = Outgoing::new(&job.envelope, &job.message);
    let result = match Connection::open(Box::new(ours), &opening).await {
        Ok(mut connection) => {
            let max = terms.settings.max_recipients;
            transaction::deliver(&mut connection, &mail, &terms.settings.timeouts, max, &mut outcomes).await
        }
        Err(failure) => Err(failure),
    };
    let (lacking, failure) = match result {
        Ok(lacking) => (lacking, None),
        Err(failure) => (vec![Some(failure.outcome("mx.example")); outcomes.len()], Some(failure)),
    };
    let outcomes = outcomes.into_iter().zip(lacking).map(|(outcome, lack)| outcome.or(lack).unwrap()).collect();
    Talk { outcomes, failure, played: server.await.unwrap() }
}

/// An authority, and what a server with its certificate for `name` needs.
fn certificate(name: &str) -> (CertificateDer<'static>, TlsAcceptor) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(vec![]).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = root.self_signed(&root_key).unwrap().der().clone();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&root, &root_key);
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (authority, TlsAcceptor::from(Arc::new(config)))
}
