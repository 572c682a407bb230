//! The end of a message, and what may stand before it (RFC 5321 §4.5.2, §2.3.8).
//!
//! Only `<CR><LF>.<CR><LF>`, or `.<CR><LF>` as the first line, ends DATA. A server that also takes `<LF>.<LF>` or
//! `<LF>.<CR><LF>` for the end lets a client hide a second message, with an envelope of its own, in the body of the first
//! (SMTP smuggling, 2023). So every octet goes through one explicit state, and a bare CR, a bare LF or a NUL is
//! remembered as a fault: the reader goes on to the true end, and the message is refused there.
//!
//! Sizes are not checked here: the caller counts, and answers after the end, so that the dialogue can't get out of step.

use bytes::{Buf, BytesMut};

/// What was wrong with the octets of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    pub bare_cr: bool,
    pub bare_lf: bool,
    pub nul: bool,
}

/// What is done with bare CR and LF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnds {
    /// Remembered as a fault: the message is refused at its end.
    Strict,
    /// A bare LF becomes CRLF, a stray CR a space. Neither ever ends DATA, nor begins a line for dot-stuffing.
    Normalize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// After CRLF, or at the very beginning.
    LineStart,
    /// A dot that is the first octet of its line.
    Dot,
    /// `.` and CR at the start of a line.
    DotCr,
    Text,
    /// A CR whose LF has not come yet.
    Cr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All input was taken, the end has not come.
    More,
    /// The terminator was read; what follows it is left in the input.
    End,
}

/// Takes the lines after DATA, removes dot-stuffing and finds the end.
#[derive(Debug)]
pub struct DataReader {
    state: State,
    line_ends: LineEnds,
    faults: Faults,
}

impl DataReader {
    pub fn new(line_ends: LineEnds) -> Self {
        Self { state: State::LineStart, line_ends, faults: Faults::default() }
    }

    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Moves octets of the message from `input` to the end of `content`.
    pub fn read(&mut self, input: &mut BytesMut, content: &mut Vec<u8>) -> Progress {
        let mut taken = 0;
        let mut progress = Progress::More;
        while let Some(&octet) = input.get(taken) {
            if self.state == State::Text {
                let rest = input.get(taken..).unwrap_or_default();
                let plain = rest.iter().position(|b| matches!(b, b'\r' | b'\n' | 0)).unwrap_or(rest.len());
                content.extend_from_slice(rest.get(..plain).unwrap_or_default());
                taken += plain;
                if plain > 0 {
                    continue;
                }
            }
            taken += 1;
            if self.step(octet, content) {
                progress = Progress::End;
                break;
            }
        }
        input.advance(taken);
        progress
    }

    /// One octet; true when it was the last of the terminator.
    fn step(&mut self, octet: u8, content: &mut Vec<u8>) -> bool {
        match (self.state, octet) {
            (State::DotCr, b'\n') => return true,
            (State::Cr, b'\n') => {
                content.extend_from_slice(b"\r\n");
                self.state = State::LineStart;
            }
            (State::LineStart, b'.') => self.state = State::Dot,
            (State::Dot, b'\r') => self.state = State::DotCr,
            (State::Cr | State::DotCr, _) => {
                // The CR before this octet had no LF. For `.\r` the dot is stuffing and goes (RFC 5321 §4.5.2).
                self.bare_cr(content);
                self.text(octet, content);
            }
            (State::LineStart | State::Dot | State::Text, _) => self.text(octet, content),
        }
        false
    }

    fn text(&mut self, octet: u8, content: &mut Vec<u8>) {
        self.state = State::Text;
        match octet {
            b'\r' => self.state = State::Cr,
            b'\n' => {
                self.faults.bare_lf |= self.line_ends == LineEnds::Strict;
                content.extend_from_slice(b"\r\n");
            }
            0 => {
                self.faults.nul = true;
                content.push(0);
            }
            _ => content.push(octet),
        }
    }

    fn bare_cr(&mut self, content: &mut Vec<u8>) {
        self.faults.bare_cr |= self.line_ends == LineEnds::Strict;
        content.push(b' ');
    }
}

/// Takes the octets of BDAT chunks (RFC 3030): no dot-stuffing, no terminator, the same rules for line ends.
#[derive(Debug)]
pub struct ChunkReader {
    after_cr: bool,
    line_ends: LineEnds,
    faults: Faults,
}

impl ChunkReader {
    pub fn new(line_ends: LineEnds) -> Self {
        Self { after_cr: false, line_ends, faults: Faults::default() }
    }

    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Appends a piece of a chunk to `content`. A CR at the end of a piece waits for the next one.
    pub fn read(&mut self, piece: &[u8], content: &mut Vec<u8>) {
        for &octet in piece {
            match (self.after_cr, octet) {
                (true, b'\n') => content.extend_from_slice(b"\r\n"),
                (true, _) => {
                    self.stray_cr(content);
                    self.text(octet, content);
                }
                (false, _) => self.text(octet, content),
            }
            self.after_cr = octet == b'\r';
        }
    }

    /// After the last chunk.
    pub fn finish(&mut self, content: &mut Vec<u8>) {
        if std::mem::take(&mut self.after_cr) {
            self.stray_cr(content);
        }
    }

    fn text(&mut self, octet: u8, content: &mut Vec<u8>) {
        match octet {
            b'\r' => {}
            b'\n' => {
                self.faults.bare_lf |= self.line_ends == LineEnds::Strict;
                content.extend_from_slice(b"\r\n");
            }
            _ => {
                self.faults.nul |= octet == 0;
                content.push(octet);
            }
        }
    }

    fn stray_cr(&mut self, content: &mut Vec<u8>) {
        self.faults.bare_cr |= self.line_ends == LineEnds::Strict;
        content.push(b' ');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, faults and what is left, when the input comes in pieces of that size.
    fn read(input: &[u8], piece: usize, line_ends: LineEnds) -> (Vec<u8>, Faults, Option<Vec<u8>>) {
        let mut reader = DataReader::new(line_ends);
        let mut content = Vec::new();
        let mut buffer = BytesMut::new();
        let mut pieces = input.chunks(piece);
        while let Some(octets) = pieces.next() {
            buffer.extend_from_slice(octets);
            if reader.read(&mut buffer, &mut content) == Progress::End {
                let rest = [buffer.to_vec(), pieces.collect::<Vec<_>>().concat()].concat();
                return (content, reader.faults(), Some(rest));
            }
        }
        (content, reader.faults(), None)
    }

    fn every_split(input: &[u8], line_ends: LineEnds) -> (Vec<u8>, Faults, Option<Vec<u8>>) {
        let whole = read(input, input.len(), line_ends);
        for piece in 1..input.len() {
            assert_eq!(read(input, piece, line_ends), whole, "{input:?} in pieces of {piece}");
        }
        whole
    }

    #[test]
    fn what_ends_a_message() {
        for (input, content) in [
            (&b"a\r\n.\r\n"[..], &b"a\r\n"[..]),
            (b".\r\n", b""),
            (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n"),
            (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
            (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
        ] {
            let (got, faults, rest) = every_split(input, LineEnds::Strict);
            assert_eq!((got.as_slice(), faults, rest), (content, Faults::default(), Some(Vec::new())), "{input:?}");
        }
    }

    /// faults.md, End of data: none of these ends a message, though one server or another takes it for the end.
    #[test]
    fn what_does_not_end_a_message() {
        let sequences: [&[u8]; 20] = [
            b"\n.\n",
            b"\n.\r",
            b"\n.\r\n",
            b"\r.\r",
            b"\r.\n",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n.\r\r\n",
            b"\r\r\n.\r\r\n",
            b"\n\r.\r\n",
            b"\r\n.\n\r",
            b"\n\n.\r\n",
            b"\r\n\0.\r\n",
            b"\r\n.\0\r\n",
            b"\r\n.\r\0\n",
            b"\r\n. \r\n",
            b"\r\n.\t\r\n",
            b"\r\n\x0b.\r\n",
            b"\r\n.\xc2\x85\r\n",
        ];
        for sequence in sequences {
            let input = [b"a", sequence, b"MAIL FROM:<>\r\n", b"\r\n.\r\nQUIT\r\n"].concat();
            for line_ends in [LineEnds::Strict, LineEnds::Normalize] {
                let (content, _, rest) = every_split(&input, line_ends);
                assert_eq!(rest.as_deref(), Some(&b"QUIT\r\n"[..]), "{sequence:?}");
                let held = content.windows(10).any(|w| w == b"MAIL FROM:");
                assert!(held, "{sequence:?}");
                let clean = content.windows(2).all(|w| (w[0] == b'\r') == (w[1] == b'\n'));
                assert!(clean, "{sequence:?} leaves a bare line end");
            }
        }
    }

    #[test]
    fn faults_are_named() {
        for (input, faults) in [
            (&b"a\nb\r\n.\r\n"[..], Faults { bare_lf: true, ..Faults::default() }),
            (b"a\rb\r\n.\r\n", Faults { bare_cr: true, ..Faults::default() }),
            (b"a\0b\r\n.\r\n", Faults { nul: true, ..Faults::default() }),
            (b"a\r\r\n.\r\n", Faults { bare_cr: true, ..Faults::default() }),
        ] {
            assert_eq!(every_split(input, LineEnds::Strict).1, faults, "{input:?}");
            assert_eq!(every_split(input, LineEnds::Normalize).1, Faults { nul: faults.nul, ..Faults::default() });
        }
    }

    #[test]
    fn chunks_obey_the_same_rules() {
        let input = b".\r\na\nb\rc\r\n.\r\n\r";
        for piece in 1..=input.len() {
            let mut reader = ChunkReader::new(LineEnds::Normalize);
            let mut content = Vec::new();
            input.chunks(piece).for_each(|octets| reader.read(octets, &mut content));
            reader.finish(&mut content);
            assert_eq!(content, b".\r\na\r\nb c\r\n.\r\n ", "pieces of {piece}");
        }
        let mut reader = ChunkReader::new(LineEnds::Strict);
        reader.read(b"a\0\n\r", &mut Vec::new());
        reader.finish(&mut Vec::new());
        assert_eq!(reader.faults(), Faults { bare_cr: true, bare_lf: true, nul: true });
    }

    proptest::proptest! {
        #[test]
        fn stuffing_is_undone(lines in proptest::collection::vec("[.a\u{0}-\u{9}]{0,5}", 0..8), piece in 1usize..20) {
            let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let stuffed: String = lines.iter().map(|line| {
                if line.starts_with('.') { format!(".{line}\r\n") } else { format!("{line}\r\n") }
            }).collect();
            let (content, _, rest) = read(format!("{stuffed}.\r\nrest").as_bytes(), piece, LineEnds::Strict);
            proptest::prop_assert_eq!(content, message.into_bytes());
            proptest::prop_assert_eq!(rest.as_deref(), Some(&b"rest"[..]));
        }
    }
}
