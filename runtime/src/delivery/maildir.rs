//! Final delivery into a Maildir: written under `tmp`, synced, then moved to `new`, so that a reader sees whole mails only.
//!
//! The octets stay as they are, CRLF included. One mail, one file, however many recipients share the directory.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::content::PIECE;
use super::{Diagnosis, Job, Outcome};
use crate::smtp::Enhanced;

/// The outcome is the same for all recipients.
pub(super) async fn deliver(directory: &Path, host_name: &str, job: &Job) -> Outcome {
    let (directory, name, job) = (directory.to_owned(), file_name(host_name), job.clone());
    let written = tokio::task::spawn_blocking(move || write(&directory, &name, &job)).await;
    match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(()) => Outcome::Delivered(Diagnosis::own(250, Enhanced::new(0, 0), "Delivered to the Maildir")),
        Err(error) => {
            let (code, detail) = if error.kind() == io::ErrorKind::StorageFull { (452, 1) } else { (451, 0) };
            let text = format!("Maildir can't be written: {error}");
            Outcome::Deferred(Diagnosis::own(code, Enhanced::new(3, detail), text))
        }
    }
}

/// Unique by time, process and count; a host name can't lead to another directory.
fn file_name(host_name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let host: String =
        host_name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' }).collect();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}.M{}P{}Q{count}.{host}", now.as_secs(), now.subsec_micros(), std::process::id())
}

fn write(directory: &Path, name: &str, job: &Job) -> io::Result<()> {
    create(directory)?;
    let (temporary, new) = (directory.join("tmp").join(name), directory.join("new"));
    let written = write_file(&temporary, job).and_then(|()| {
        // Never over another mail: a link fails where the name exists.
        std::fs::hard_link(&temporary, new.join(name))?;
        File::open(&new)?.sync_all()
    });
    // A name too many under `tmp` is no reason to deliver a mail twice; readers remove old ones.
    let _ = std::fs::remove_file(&temporary);
    written
}

fn create(directory: &Path) -> io::Result<()> {
    let parts = ["tmp", "new", "cur"].map(|part| directory.join(part));
    if parts.iter().all(|part| part.is_dir()) {
        return Ok(());
    }
    for part in &parts {
        DirBuilder::new().recursive(true).mode(0o700).create(part)?;
    }
    File::open(directory)?.sync_all()
}

fn write_file(path: &Path, job: &Job) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    let mut head = trace(job).into_bytes();
    head.extend_from_slice(&job.message.header.to_bytes());
    if job.message.body.is_separated() {
        head.extend_from_slice(b"\r\n");
    }
    file.write_all(&head)?;
    let body = &job.message.body;
    let mut at = 0;
    while at < body.len() {
        let piece = body.read_at(at, PIECE)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all(&piece)?;
        at += piece.len() as u64;
    }
    file.sync_all()
}

/// RFC 5321 §4.4, RFC 9228. Addresses are typed values: they hold neither CR nor LF.
fn trace(job: &Job) -> String {
    let mut trace = format!("Return-Path: <{}>\r\n", job.envelope.reverse_path);
    for recipient in &job.envelope.recipients {
        trace.push_str(&format!("Delivered-To: {}\r\n", recipient.mailbox));
    }
    trace
}
