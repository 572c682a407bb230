//! The next hop: takes every mail, keeps none, and allocates nothing between the first octet of a connection and its last.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// More than any mail of ours.
const ROOM: usize = 256 << 10;

/// Runs until the test ends.
pub fn next_hop() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Its end is that of the connection.
            thread::spawn(move || converse(stream).is_ok());
        }
    });
    address
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 hop.example ESMTP\r\n")?;
    let (mut buffer, mut filled) = (vec![0; ROOM], 0);
    let mut in_mail = false;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let taken = take(&buffer[..filled], &mut in_mail, &mut stream)?;
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

/// Answers what is complete; how many octets that was.
fn take(octets: &[u8], in_mail: &mut bool, stream: &mut TcpStream) -> io::Result<usize> {
    let mut at = 0;
    // Replies to what came together go out together.
    let (mut replies, mut said) = ([0; 512], 0);
    loop {
        let rest = &octets[at..];
        let end: &[u8] = if *in_mail { b"\r\n.\r\n" } else { b"\r\n" };
        let Some(len) = rest.windows(end.len()).position(|octets| octets == end) else { break };
        let reply: &[u8] = match rest {
            _ if *in_mail => b"250 2.0.0 taken\r\n",
            [b'E' | b'e', ..] => b"250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
            [b'D' | b'd', ..] => b"354 go on\r\n",
            [b'Q' | b'q', ..] => b"221 2.0.0 bye\r\n",
            _ => b"250 2.0.0 ok\r\n",
        };
        *in_mail = reply.starts_with(b"354");
        replies[said..said + reply.len()].copy_from_slice(reply);
        said += reply.len();
        at += len + end.len();
    }
    stream.write_all(&replies[..said])?;
    Ok(at)
}
