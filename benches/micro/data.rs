//! What comes over the wire: the data reader, commands, the header.

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use postern::mail::Header;
use postern::smtp::Command;
use postern::smtp::data::{DataReader, LineEnds, Progress};

use crate::message;

pub fn reader(criterion: &mut Criterion) {
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

pub fn commands(criterion: &mut Criterion) {
    criterion.bench_function("parse MAIL", |bencher| {
        bencher.iter(|| Command::parse(b"MAIL FROM:<someone@example.org> SIZE=4096 BODY=8BITMIME").is_ok());
    });
    let header = Bytes::from(message(0));
    criterion.bench_function("parse header", |bencher| bencher.iter(|| Header::parse(&header)));
}
