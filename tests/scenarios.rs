//! Every folder of `tests/scenarios`: see [`postern_tests::scenario`].

use std::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_comes_out_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut cases: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 5, "where are they?");
    let mut wrong = Vec::new();
    for case in cases {
        if let Err(report) = postern_tests::scenario::run(&case).await {
            wrong.push(format!("=== {}\n{report}", case.file_name().unwrap().display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
