//! What one step costs, without sockets: the data reader, commands, one DKIM signature made and one verified, one commit to the
//! spool.
//!
//! `cargo bench --package postern-benches`. Compare only numbers of one run: machines are noisy.

#![expect(clippy::expect_used, reason = "a bench that cannot even begin has nothing better to do")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use postern::authentication::{self, Verifier};
use postern::dns::{self, Resolver};
use postern::mail::evidence::{AuthOutcome, Signature};
use postern::mail::{Body, Header, Message, MessageId, SignatureKind, SignatureRequest};
use postern::metrics::Metrics;
use postern::signing::{Algorithm, Keyring, Policy, Selector, carry_out, keyring};
use postern::smtp::data::{DataReader, LineEnds, Progress};
use postern::smtp::{Command, Domain};
use postern::spool::{Batch, Entry, SegmentSpool, Settings, Spool};
use postern_tests::dns::Dns;

fn message(octets: usize) -> Vec<u8> {
    let mut message = b"From: a@example.org\r\nTo: b@example.com\r\nSubject: bench\r\n\r\n".to_vec();
    while message.len() < octets {
        message.extend_from_slice(b"The quick brown fox jumps over the lazy dog, and then some more of it.\r\n");
    }
    message
}

fn data_reader(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("data reader");
    for octets in [4 * 1024, 1024 * 1024] {
        let mut input = message(octets);
        input.extend_from_slice(b".\r\n");
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(octets), |bencher| {
            bencher.iter_batched(
                || (BytesMut::from(input.as_slice()), Vec::with_capacity(input.len())),
                |(mut input, mut content)| {
                    let mut reader = DataReader::new(LineEnds::Strict);
                    assert_eq!(reader.read(&mut input, &mut content), Progress::End);
                    content
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn commands(criterion: &mut Criterion) {
    criterion.bench_function("parse MAIL", |bencher| {
        bencher.iter(|| Command::parse(b"MAIL FROM:<someone@example.org> SIZE=4096 BODY=8BITMIME").is_ok());
    });
    let header = Bytes::from(message(0));
    criterion.bench_function("parse header", |bencher| bencher.iter(|| Header::parse(&header)));
}

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

fn parsed(octets: usize) -> Message {
    let text = message(octets);
    let at = text.windows(4).position(|window| window == b"\r\n\r\n").expect("an empty line") + 2;
    let body = Body::from_bytes(Bytes::copy_from_slice(text.get(at + 2..).unwrap_or_default()));
    Message { header: Header::parse(&Bytes::copy_from_slice(text.get(..at).unwrap_or_default())), body }
}

/// What a DKIM signature costs: the key's work is the same for each mail, the hash grows with the body.
fn sign(criterion: &mut Criterion) {
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
fn verify(criterion: &mut Criterion) {
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

/// Mails a second that become durable with so many writers at once: one commit each, syncs shared.
fn spool_commit(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let settings = Settings::new(directory.path().to_owned(), 1024 * 1024);
    let (spool, _) = SegmentSpool::open(settings, metrics).expect("a spool");
    let mut group = criterion.benchmark_group("spool commit, 4 KiB");
    group.sample_size(20);
    for writers in [1_u64, 16, 64] {
        group.throughput(Throughput::Elements(writers));
        group.bench_function(BenchmarkId::from_parameter(writers), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let commits = (0..writers).map(|_| tokio::spawn(store_and_forget(spool.clone())));
                    for commit in commits.collect::<Vec<_>>() {
                        commit.await.expect("no panic");
                    }
                });
            });
        });
    }
    group.finish();
    spool.shutdown();
}

async fn store_and_forget(spool: Arc<SegmentSpool>) {
    let id = MessageId::next();
    let message = Message { header: Header::default(), body: Body::from_bytes(Bytes::from(vec![b'x'; 4096])) };
    let entry = Entry { id, meta: Bytes::from_static(b"{}"), state: None, message };
    spool.commit(Batch { store: vec![entry], ..Batch::default() }).await.expect("a healthy disk");
    spool.forget(id);
}

criterion_group!(benches, data_reader, commands, sign, verify, spool_commit);
criterion_main!(benches);
