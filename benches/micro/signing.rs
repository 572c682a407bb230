//! DKIM signatures, made and verified.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion};
use postern::authentication::{self, Verifier};
use postern::dns::{self, Resolver};
use postern::mail::evidence::{AuthOutcome, Signature};
use postern::mail::{Message, SignatureKind, SignatureRequest};
use postern::metrics::Metrics;
use postern::signing::{Algorithm, Keyring, Policy, Selector, carry_out, keyring};
use postern::smtp::Domain;
use postern_tests::dns::Dns;

use crate::parsed;

/// A mail, and a key to sign it with.
struct Signing {
    algorithm: Algorithm,
    keys: Keyring,
    request: SignatureRequest,
    /// Where its key is published, and what stands there.
    published: (String, String),
    _directory: tempfile::TempDir,
}

impl Signing {
    fn new(algorithm: Algorithm) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let domain = Domain::parse("example.org").expect("a domain");
        // Of its own for each algorithm: their records are remembered.
        let selector = Selector::parse(algorithm.key_type()).expect("a selector");
        let (key, _) = keyring::create(directory.path(), &domain, &selector, algorithm).expect("a key");
        let published = (format!("{selector}._domainkey.{domain}"), key.record().expect("a record"));
        let keys = Keyring::load(directory.path()).expect("the key");
        let request = SignatureRequest { kind: SignatureKind::Dkim, domain, selector: selector.as_str().into() };
        Self { algorithm, keys, request, published, _directory: directory }
    }

    fn sign(&self, mail: &Message) -> Message {
        let mut mail = mail.clone();
        let requests = std::slice::from_ref(&self.request);
        carry_out(&mut mail, requests, &self.keys, &Policy::default(), 0).expect("a signature");
        mail
    }
}

/// What a DKIM signature costs: the key's work is the same for each mail, the hash grows with the body.
pub fn sign(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("DKIM signature");
    for signing in [Algorithm::Rsa, Algorithm::Ed25519].map(Signing::new) {
        for octets in [4 * 1024, 1024 * 1024] {
            let mail = parsed(octets);
            group.bench_function(BenchmarkId::new(signing.algorithm.key_type(), octets), |bencher| {
                bencher.iter(|| signing.sign(&mail));
            });
        }
    }
    group.finish();
}

/// The same signatures, verified; the key's record comes out of the resolver's cache.
pub fn verify(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let names = runtime.block_on(Dns::start()).expect("a name server");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let settings = dns::Settings { servers: vec![names.address], system: false, ..dns::Settings::default() };
    let resolver = Resolver::new(settings, metrics.clone()).expect("a resolver");
    let verifier = Verifier::new(resolver, authentication::Settings::default(), metrics);
    let mut group = criterion.benchmark_group("DKIM verification");
    for signing in [Algorithm::Rsa, Algorithm::Ed25519].map(Signing::new) {
        let (owner, record) = &signing.published;
        names.publish(&dns::zone::txt(owner, record.as_bytes()));
        for octets in [4 * 1024, 1024 * 1024] {
            let signed = signing.sign(&parsed(octets));
            let outcome = |found: &[Signature]| found.first().map(|signature| signature.outcome);
            assert_eq!(outcome(&runtime.block_on(verifier.dkim(&signed, &[]))), Some(AuthOutcome::Pass));
            group.bench_function(BenchmarkId::new(signing.algorithm.key_type(), octets), |bencher| {
                bencher.iter(|| runtime.block_on(verifier.dkim(&signed, &[])));
            });
        }
    }
    group.finish();
}
