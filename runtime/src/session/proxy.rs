//! The PROXY protocol, version 2: a load balancer's word on who the client is. Only from listed peers, and then required.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The fixed part: signature, version and command, family, length.
const FIXED: usize = 16;
/// Addresses and TLVs. Balancers send some hundred octets; 64 KiB would be legal.
const MAX_REST: usize = 4096;

/// Client and local address; `None` for LOCAL (the balancer's own health check).
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut octets = vec![0; FIXED];
    stream.read_exact(&mut octets).await?;
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {what}"));
    if !octets.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        return Err(bad("no signature"));
    }
    let rest = match octets.get(14..FIXED) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => return Err(bad("too short")),
    };
    if rest > MAX_REST {
        return Err(bad("too long"));
    }
    octets.resize(FIXED + rest, 0);
    stream.read_exact(octets.get_mut(FIXED..).unwrap_or_default()).await?;
    let header = Header::try_from(octets.as_slice()).map_err(|error| bad(&error.to_string()))?;
    match (header.command, header.addresses) {
        (Command::Local, _) => Ok(None),
        (Command::Proxy, Addresses::IPv4(a)) => {
            Ok(Some(((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())))
        }
        (Command::Proxy, Addresses::IPv6(a)) => {
            Ok(Some(((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())))
        }
        (Command::Proxy, _) => Err(bad("no IP addresses")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &len[..], rest].concat()
    }

    #[tokio::test]
    async fn addresses_come_from_the_header_and_what_follows_stays() {
        let rest = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0, 25];
        let octets = [header(1, 0x11, &rest), b"EHLO".to_vec()].concat();
        let mut stream = octets.as_slice();
        let (client, local) = read_header(&mut stream).await.unwrap().unwrap();
        assert_eq!((client.to_string(), local.to_string()), ("192.0.2.1:8080".into(), "198.51.100.2:25".into()));
        assert_eq!(stream, b"EHLO");
        assert_eq!(read_header(&mut header(0, 0, &[]).as_slice()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn bad_headers_are_errors() {
        for octets in [
            b"EHLO example.com\r\nQUIT\r\n".to_vec(),
            header(1, 0x11, &[1, 2]),
            header(1, 0x31, &[0; 216]),
            header(1, 0x11, &[0; 12]).get(..20).unwrap().to_vec(),
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 100]].concat(),
        ] {
            assert!(read_header(&mut octets.as_slice()).await.is_err(), "{octets:?}");
        }
    }
}
