//! T-…: what ends a message, and the bugs that other servers have had.

mod limit;
mod outbound;
mod sequences;
mod states;

/// A recorded connection, taken apart as a server does that ends data with nothing but CRLF.CRLF: the commands, and the
/// octets of each message, dot-stuffing undone. Panics over a bare CR, a bare LF or a NUL.
fn transactions(heard: &[u8]) -> (Vec<String>, Vec<Vec<u8>>) {
    for (at, &octet) in heard.iter().enumerate() {
        let near = || heard[at.saturating_sub(30)..(at + 30).min(heard.len())].escape_ascii().to_string();
        match octet {
            b'\n' => assert_eq!(at.checked_sub(1).map(|at| heard[at]), Some(b'\r'), "bare LF: {}", near()),
            b'\r' => assert_eq!(heard.get(at + 1), Some(&b'\n'), "bare CR: {}", near()),
            0 => panic!("NUL: {}", near()),
            _ => {}
        }
    }
    let (mut commands, mut messages) = (Vec::new(), Vec::new());
    let mut lines = heard.split_inclusive(|&b| b == b'\n');
    while let Some(line) = lines.next() {
        commands.push(String::from_utf8(line.trim_ascii_end().to_vec()).unwrap());
        if line == b"DATA\r\n" {
            let mut message = Vec::new();
            loop {
                match lines.next().expect("an end of data") {
                    b".\r\n" => break,
                    line => message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line)),
                }
            }
            messages.push(message);
        }
    }
    (commands, messages)
}
