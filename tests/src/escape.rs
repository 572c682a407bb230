//! Octets as text: `\r \n \t \0 \\ \" \xHH`, and `\(text*N)` for N times the text.

/// The octets, or what is wrong with the text.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        octets.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let escape = rest.chars().next().ok_or("a backslash at the end")?;
        rest = &rest[escape.len_utf8()..];
        match escape {
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            't' => octets.push(b'\t'),
            '0' => octets.push(0),
            '\\' | '"' => octets.push(escape as u8),
            'x' => {
                let digits = rest.get(..2).ok_or("\\x needs two digits")?;
                octets.push(u8::from_str_radix(digits, 16).map_err(|error| error.to_string())?);
                rest = &rest[2..];
            }
            '(' => {
                let (inside, after) = rest.split_once(')').ok_or("\\( needs a )")?;
                let (text, count) = inside.rsplit_once('*').ok_or("\\(text*N) needs a *")?;
                let count: usize = count.parse().map_err(|_| format!("{count} is not a number"))?;
                octets.extend(unescape(text)?.repeat(count));
                rest = after;
            }
            other => return Err(format!("unknown escape \\{other}")),
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    Ok(octets)
}

/// For transcripts: one line, long ones cut.
pub fn show(octets: &[u8]) -> String {
    const MAX: usize = 300;
    let shown: String = octets.iter().take(MAX).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
    if octets.len() > MAX { format!("{shown}… ({} octets)", octets.len()) } else { shown }
}
