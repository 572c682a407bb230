//! What this machine gives: the spool's directory and disk, the log's file, the ports.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

use super::deep::{At, Report};
use crate::cli::control::{Client, Request, Response};
use crate::cli::terminal::size;
use crate::config::Settings;

/// File systems that live in memory (Linux, `TMPFS_MAGIC` and `RAMFS_MAGIC`).
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

pub(super) fn spool(settings: &Settings, report: &mut Report<'_>) {
    let directory = &settings.spool.directory;
    let shown = directory.display();
    let at = ("spool", "", "directory");
    let Ok(metadata) = std::fs::metadata(directory) else {
        let message = format!("the spool directory {shown} is not there");
        return report.error(at, message, "make it, or mount its disk; the gateway does not make it");
    };
    if !metadata.is_dir() {
        return report.error(at, format!("{shown} is not a directory"), "");
    }
    if !may(directory, Access::WRITE_OK | Access::EXEC_OK) {
        return report.error(at, format!("we may not write to {shown}"), "it must belong to the user of the gateway");
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("{shown} belongs to another user");
        report.warning(at, message, "run this command as the user of the gateway");
    }
    if metadata.mode() & 0o022 != 0 {
        report.warning(at, format!("others than its owner may write to {shown}"), "chmod go-w");
    }
    if rustix::fs::statfs(directory).is_ok_and(|found| is_in_memory(found.f_type)) {
        let message = format!("{shown} is in memory: accepted mail is lost when this machine stops");
        report.warning(at, message, "put it on a disk");
    }
    let free = rustix::fs::statvfs(directory).map(|free| free.f_bavail.saturating_mul(free.f_frsize));
    let reserve = settings.spool.reserve.0;
    if let Ok(free) = free
        && free <= reserve
    {
        let message = format!("{shown} has {} free, and {} stay free: no mail is taken", size(free), size(reserve));
        report.error(("spool", "", "reserve"), message, "make room, or a smaller `reserve`");
    }
}

/// The type of the field differs between architectures, and may be a signed one of 32 bits.
fn is_in_memory(kind: impl TryInto<i64>) -> bool {
    kind.try_into().is_ok_and(|kind| IN_MEMORY.contains(&(kind & 0xffff_ffff)))
}

/// By our effective user.
fn may(path: &Path, access: Access) -> bool {
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok()
}

pub(super) fn log(settings: &Settings, report: &mut Report<'_>) {
    let Some(file) = &settings.log.file else { return };
    let at = ("log", "", "file");
    let shown = file.display();
    if file.exists() {
        if file.is_dir() || !may(file, Access::WRITE_OK) {
            report.error(
                at,
                format!("we may not write to the log {shown}"),
                "it must belong to the user of the gateway",
            );
        }
        return;
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !may(directory, Access::WRITE_OK | Access::EXEC_OK) {
        report.error(at, format!("the log {shown} can't be made"), "its directory must be there and ours to write to");
    }
}

/// Free, or held by the gateway that runs with this config.
pub(super) fn ports(settings: &Settings, report: &mut Report<'_>) {
    let running = running(settings);
    let http = settings.http.map(|http| http.address);
    let listeners =
        settings.listeners.iter().map(|listener| (("listener", &*listener.name, "address"), listener.address));
    for (at, address) in listeners.chain(http.map(|address| (("server.http", "", "address"), address))) {
        if address.port() != 0 && !running.contains(&address) {
            port(at, address, report);
        }
    }
}

fn running(settings: &Settings) -> Vec<SocketAddr> {
    let answer = Client::connect(&settings.control_socket()).and_then(|mut client| client.ask(&Request::Status));
    match answer {
        Ok(Response::Status { status }) => {
            status.listeners.iter().map(|listener| listener.address).chain(status.http).collect()
        }
        _ => Vec::new(),
    }
}

fn port(at: At<'_>, address: SocketAddr, report: &mut Report<'_>) {
    // The standard library reuses addresses, as the gateway does.
    let Err(error) = TcpListener::bind(address) else { return };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            report.error(at, format!("{address} is taken by another program"), "`ss -ltnp` says by which");
        }
        io::ErrorKind::AddrNotAvailable => {
            report.error(at, format!("this machine has no address {}", address.ip()), "");
        }
        io::ErrorKind::PermissionDenied => {
            let help = "run this command as the gateway runs: it needs the right to bind ports below 1024";
            report.warning(at, format!("we may not listen on {address}"), help);
        }
        _ => report.error(at, format!("can't listen on {address}: {error}"), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Places};

    /// What is said of a config with that spool, log and address.
    fn findings(prepare: impl FnOnce(&Path), log: &str, address: &str, reserve: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postern.toml");
        prepare(directory.path());
        let text = format!(
            "[server]\nhost_name = \"mx.example.net\"\n[spool]\ndirectory = \"spool\"\nreserve = \"{reserve}\"\n\
             [log]\nfile = \"{log}\"\n[[listener]]\nname = \"mx\"\naddress = \"{address}\"\nrole = \"inbound\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let settings = config::load(&path, &[]).unwrap().settings;
        let places = Places::read(&path);
        let mut report = Report::new(&places);
        spool(&settings, &mut report);
        super::log(&settings, &mut report);
        ports(&settings, &mut report);
        let problems = report.into_problems();
        assert!(problems.iter().all(|problem| problem.places.len() == 1), "{problems:?}");
        let folder = directory.path().display().to_string();
        problems.into_iter().map(|problem| problem.message.replace(&folder, "")).collect()
    }

    #[test]
    fn the_machine_is_looked_at() {
        let make = |directory: &Path| std::fs::create_dir(directory.join("spool")).unwrap();
        let file = |directory: &Path| std::fs::write(directory.join("spool"), "").unwrap();
        // A test may well run in memory.
        let quiet =
            |found: Vec<String>| found.into_iter().filter(|text| !text.contains("in memory")).collect::<Vec<_>>();
        assert_eq!(quiet(findings(make, "e.log", "127.0.0.1:0", "1 MiB")), [""; 0]);
        assert_eq!(
            quiet(findings(|_| (), "e.log", "127.0.0.1:0", "1 MiB")),
            ["the spool directory /spool is not there"]
        );
        assert_eq!(quiet(findings(file, "e.log", "127.0.0.1:0", "1 MiB")), ["/spool is not a directory"]);
        assert_eq!(quiet(findings(make, "no/e.log", "127.0.0.1:0", "1 MiB")), ["the log /no/e.log can't be made"]);
        assert_eq!(quiet(findings(make, "spool", "127.0.0.1:0", "1 MiB")), ["we may not write to the log /spool"]);
        let full = quiet(findings(make, "e.log", "127.0.0.1:0", "900 TiB"));
        assert!(full[0].ends_with(" GiB stay free: no mail is taken"), "{full:?}");
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap().to_string();
        assert_eq!(
            quiet(findings(make, "e.log", &address, "1 MiB")),
            [format!("{address} is taken by another program")]
        );
        let foreign = quiet(findings(make, "e.log", "192.0.2.1:25", "1 MiB"));
        assert!(foreign == ["this machine has no address 192.0.2.1"] || foreign[0].contains("may not"), "{foreign:?}");
    }

    #[test]
    fn memory_is_known_by_its_number() {
        assert!(is_in_memory(0x0102_1994_i64) && is_in_memory(-2_054_924_042_i64) && !is_in_memory(0xef53_i64));
    }
}
