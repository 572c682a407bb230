//! Octets as text: `\r \n \t \0 \\ \" \xHH`, and `\(text*N)` for N times the text.

/// Octets that one text may stand for.
const MAX: usize = 64 << 20;

/// The octets, or what is wrong with the text.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        octets.extend_from_slice(before.as_bytes());
        let escape = after.chars().next().ok_or("a backslash at the end")?;
        rest = after.get(escape.len_utf8()..).unwrap_or_default();
        match escape {
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            't' => octets.push(b'\t'),
            '0' => octets.push(0),
            '\\' => octets.push(b'\\'),
            '"' => octets.push(b'"'),
            'x' => {
                let (digits, after) = rest.split_at_checked(2).ok_or("\\x needs two digits")?;
                octets.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                rest = after;
            }
            '(' => {
                let (inside, after) = rest.split_once(')').ok_or("\\( needs a )")?;
                octets.extend(repeated(inside)?);
                rest = after;
            }
            other => return Err(format!("unknown escape \\{other}")),
        }
        if octets.len() > MAX {
            return Err(too_long());
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    Ok(octets)
}

fn repeated(inside: &str) -> Result<Vec<u8>, String> {
    let (text, count) = inside.rsplit_once('*').ok_or("\\(text*N) needs a *")?;
    let count: usize = count.parse().map_err(|_| format!("{count} is not a number"))?;
    let text = unescape(text)?;
    // A short line must not ask for all the memory there is.
    match text.len().checked_mul(count) {
        Some(length) if length <= MAX => Ok(text.repeat(count)),
        _ => Err(too_long()),
    }
}

fn too_long() -> String {
    format!("more than {MAX} octets")
}

/// For transcripts: one line, long ones cut.
pub fn show(octets: &[u8]) -> String {
    const MAX: usize = 300;
    let shown: String = octets.iter().take(MAX).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    if octets.len() > MAX { format!("{shown}… ({} octets)", octets.len()) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_what_the_escapes_say() {
        for (text, expected) in [
            (r"a\r\n\t\0\\\x2e", Ok(&b"a\r\n\t\0\\."[..])),
            (r"\(ab*3)c", Ok(b"abababc")),
            (r"\(\x41*2)", Ok(b"AA")),
            ("é", Ok("é".as_bytes())),
            (r"a\", Err("a backslash at the end")),
            (r"\x4", Err("\\x needs two digits")),
            (r"\(a*9", Err("\\( needs a )")),
            (r"\(abcd*99999999999)", Err("more than 67108864 octets")),
            (r"\q", Err("unknown escape \\q")),
        ] {
            assert_eq!(unescape(text).as_deref().map_err(String::as_str), expected, "{text}");
        }
    }
}
