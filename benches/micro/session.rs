//! A whole session through the machine, without I/O and without a plugin: what of a mail's cost is the protocol.

use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use postern::pipeline::{Chains, SessionId, Verdict};
use postern::session::machine::{Answer, Gateway, Input, Machine, Output, Question};
use postern::session::{Listener, Peer, Snapshot};
use postern_tests::fixture;

use crate::{clerk, message};

/// What the client sends at a time, each piece after the replies to the one before.
fn pieces(octets: usize) -> Vec<Vec<u8>> {
    let content = [message(octets).as_slice(), b".\r\n"].concat();
    let commands: [&[u8]; 4] = [
        b"EHLO client.example.org\r\n",
        b"MAIL FROM:<someone@example.org> SIZE=4096\r\n",
        b"RCPT TO:<jones@example.com>\r\n",
        b"DATA\r\n",
    ];
    commands.into_iter().chain([content.as_slice(), b"QUIT\r\n"]).map(<[u8]>::to_vec).collect()
}

/// EHLO, one mail, QUIT.
pub fn whole(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let snapshot = Snapshot {
        settings: Arc::new(fixture::settings(directory.path().to_owned())),
        directory: Arc::new(fixture::directory()),
        chains: Arc::new(Chains::default()),
    };
    let gateway = Arc::new(Gateway::new(snapshot, clerk(), Box::new(|_| true)));
    let listener = Arc::new(Listener::inbound("mx"));
    let mut group = criterion.benchmark_group("session, one mail");
    for octets in [4 * 1024, 64 * 1024] {
        let pieces = pieces(octets);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(octets), |bencher| {
            bencher.iter_batched(
                || Machine::new(gateway.clone(), listener.clone(), peer()),
                |machine| assert_eq!(play(machine, &pieces), 1),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn peer() -> Peer {
    let client = ([192, 0, 2, 1], 1025).into();
    Peer {
        id: SessionId::next(),
        client,
        connecting: client,
        local: ([203, 0, 113, 25], 25).into(),
        client_name: Arc::default(),
        concurrent: 1,
        tls: None,
    }
}

/// Mails that were taken.
fn play(mut machine: Machine, pieces: &[Vec<u8>]) -> u32 {
    let mut pieces = pieces.iter();
    let mut buffer = BytesMut::new();
    let mut input = Input::Start { unavailable: None };
    loop {
        let output = machine.step(input, &mut buffer);
        drop(machine.take_replies());
        input = match output {
            Output::Ask(question) => Input::Answered(answer(question)),
            Output::Read(_) => match pieces.next() {
                Some(piece) => {
                    buffer.extend_from_slice(piece);
                    Input::Octets
                }
                None => return machine.taken(),
            },
            Output::StartTls | Output::Close => return machine.taken(),
        };
    }
}

fn answer(question: Question) -> Answer {
    match question {
        Question::Hear(_, _, hearing) => Answer::Heard(hearing, Verdict::Next),
        Question::Verify { .. } => Answer::Verified(false),
        Question::Flush(mut reception) => {
            let result = reception.flush();
            Answer::Flushed(reception, result)
        }
        Question::Finish(reception) => Answer::Finished(reception.finish()),
        Question::Commit(_) => Answer::Committed(Ok(())),
        Question::Wait(_) => Answer::Waited,
    }
}
