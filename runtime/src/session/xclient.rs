//! XCLIENT: a trusted front end says for whom it speaks (Postfix' XCLIENT protocol).

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::machine::Peer;
use crate::pipeline::ClientName;
use crate::smtp::Domain;
use crate::smtp::xtext;

pub struct Said {
    pub peer: Peer,
    pub helo: Option<String>,
    pub login: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XClientError {
    #[error("Bad value of XCLIENT attribute {0}")]
    Value(String),
    #[error("XCLIENT attribute {0} not recognized")]
    Unknown(String),
}

/// What the peer is after the attributes were taken into account.
pub fn apply(peer: &Peer, attributes: &[(String, String)]) -> Result<Said, XClientError> {
    let mut said = Said { peer: peer.clone(), helo: None, login: None };
    // The address first, wherever it stands: it takes the name with it that was known of the old one.
    let (addresses, others): (Vec<_>, Vec<_>) = attributes.iter().partition(|(name, _)| name == "ADDR");
    for (name, value) in addresses.into_iter().chain(others) {
        let bad = || XClientError::Value(name.clone());
        let value = xtext::decode(value).ok_or_else(bad)?;
        let known = !value.eq_ignore_ascii_case("[UNAVAILABLE]") && !value.eq_ignore_ascii_case("[TEMPUNAVAIL]");
        match name.as_str() {
            "ADDR" => {
                // An unknown client is not the front end: it must not have what that one is trusted with.
                let unknown = IpAddr::from([0, 0, 0, 0]);
                said.peer.client.set_ip(if known { address(&value).ok_or_else(bad)? } else { unknown });
                said.peer.client_name = Arc::default();
            }
            "PORT" if known => said.peer.client.set_port(value.parse().map_err(|_| bad())?),
            "DESTADDR" if known => said.peer.local.set_ip(address(&value).ok_or_else(bad)?),
            "DESTPORT" if known => said.peer.local.set_port(value.parse().map_err(|_| bad())?),
            "HELO" if known => said.helo = Some(value).filter(|v| v.len() <= 255 && !v.contains(' ')),
            "LOGIN" if known => said.login = Some(value),
            "NAME" => said.peer.client_name = Arc::new(OnceCell::new_with(Some(client_name(&value, known)))),
            "PORT" | "DESTADDR" | "DESTPORT" | "HELO" | "LOGIN" | "PROTO" => {}
            _ => return Err(XClientError::Unknown(name.clone())),
        }
    }
    Ok(said)
}

fn client_name(value: &str, known: bool) -> ClientName {
    match Domain::parse(value) {
        Ok(name) if known => ClientName::Verified(name),
        _ if value.eq_ignore_ascii_case("[TEMPUNAVAIL]") => ClientName::TemporaryFailure,
        _ => ClientName::None,
    }
}

fn address(value: &str) -> Option<IpAddr> {
    let plain = match value.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => value.get(5..)?,
        _ => value,
    };
    plain.parse().ok()
}
