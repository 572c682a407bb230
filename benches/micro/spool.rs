//! Commits to the spool on disk.

use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use postern::mail::{Body, Header, Message, MessageId};
use postern::metrics::Metrics;
use postern::spool::{Batch, Entry, SegmentSpool, Settings, Spool as _};

/// Mails a second that become durable with so many writers at once: one commit each, syncs shared.
pub fn commit(criterion: &mut Criterion) {
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
