//! Who is known to the gateway in every dialogue.
//!
//! - tenant `example` of reseller `acme`: example.com, bücher.example; tenant `other`: example.net; tenant `nodest`:
//!   nodest.example, without a destination
//! - trusted network 198.51.100.0/24 of tenant `example`
//! - user `ann`, password `secret`, tenant `example`, who may send as ann@example.com; user `root`, password `secret`,
//!   who may send as anybody
//! - administrators: admin@example.com

use std::path::PathBuf;
use std::sync::Arc;

use postern::mail::Route;
use postern::session::Settings;
use postern::smtp::{Domain, Host, Mailbox};
use postern::tenancy::{Directory, SendAs, Tenant, TrustedNetwork, User};

pub const HOST_NAME: &str = "gw.example.org";

pub fn settings(incoming_directory: PathBuf) -> Settings {
    Settings {
        host_name: HOST_NAME.to_owned(),
        administrators: vec![mailbox("admin@example.com")],
        incoming_directory,
        ..Settings::default()
    }
}

pub fn directory() -> Directory {
    let host = Host::parse("mail.example.com").expect("a host");
    let host = Route::Host { host, port: 25, tls: Default::default() };
    let tenants = vec![
        tenant("example", Some("acme"), &["example.com", "bücher.example"], Some(host)),
        tenant("other", None, &["example.net"], Some(Route::Maildir("/nonexistent".into()))),
        tenant("nodest", None, &["nodest.example"], None),
    ];
    let ann = SendAs::These { mailboxes: vec![mailbox("ann@example.com")], domains: Vec::new() };
    let users = vec![user("ann", Some("example"), ann), user("root", None, SendAs::Any)];
    let trusted = vec![TrustedNetwork {
        name: "office".into(),
        network: "198.51.100.0/24".parse().expect("a network"),
        tenant: Some("example".into()),
    }];
    Directory::new(tenants, users, trusted).expect("a consistent directory")
}

pub fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).expect("a mailbox")
}

fn tenant(name: &str, reseller: Option<&str>, domains: &[&str], destination: Option<Route>) -> Tenant {
    Tenant {
        name: name.into(),
        reseller: reseller.map(Arc::from),
        domains: domains.iter().map(|domain| Domain::parse(domain).expect("a domain")).collect(),
        destination,
        outbound: None,
        max_message_size: None,
        max_recipients: None,
    }
}

fn user(login: &str, tenant: Option<&str>, may_send_as: SendAs) -> User {
    use argon2::password_hash::{PasswordHasher as _, SaltString};
    let salt = SaltString::encode_b64(b"0123456789abcdef").expect("a salt");
    // As cheap as argon2 gets.
    let cheap = argon2::Params::new(8, 1, 1, None).expect("parameters");
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap);
    let hash = argon2.hash_password(b"secret", &salt).expect("a hash").to_string();
    User { login: login.into(), password_hash: hash.into(), tenant: tenant.map(Arc::from), may_send_as }
}
