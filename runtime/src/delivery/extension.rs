//! What a server says it can do (RFC 5321 §4.1.1.1), read from its reply to EHLO.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    /// RFC 2920.
    pub(super) pipelining: bool,
    /// RFC 1870; its limit, where it names one.
    pub(super) size: Option<Option<u64>>,
    /// RFC 6152.
    pub(super) eight_bit_mime: bool,
    /// RFC 6531.
    pub(super) smtputf8: bool,
    /// RFC 3461.
    pub(super) dsn: bool,
    /// RFC 3207.
    pub(super) starttls: bool,
    /// RFC 4954 with RFC 4616.
    pub(super) auth_plain: bool,
    pub(super) auth_login: bool,
    /// RFC 9422 `RCPTMAX`.
    pub(super) max_recipients: Option<usize>,
}

impl Extensions {
    /// The first line is the server's name and greeting. What is not understood is not there.
    pub(super) fn parse(lines: &[String]) -> Self {
        let mut extensions = Self::default();
        for line in lines.iter().skip(1) {
            extensions.read(line);
        }
        extensions
    }

    fn read(&mut self, line: &str) {
        // `AUTH=PLAIN` is how servers said it before RFC 2554.
        let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
        match words.next().unwrap_or("").to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            // RFC 1870 §4: 0 is no limit.
            "SIZE" => self.size = Some(words.next().and_then(|limit| limit.parse().ok()).filter(|&limit| limit > 0)),
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "DSN" => self.dsn = true,
            "STARTTLS" => self.starttls = true,
            "AUTH" => {
                for mechanism in words {
                    self.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                    self.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                }
            }
            "LIMITS" => {
                let (_, limits) = line.split_once(' ').unwrap_or((line, ""));
                self.max_recipients = limits.split(' ').find_map(|limit| {
                    let (name, value) = limit.split_once('=')?;
                    if name.eq_ignore_ascii_case("RCPTMAX") { value.parse().ok().filter(|&max| max > 0) } else { None }
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say() {
        let parse = |text: &str| Extensions::parse(&text.split('|').map(str::to_owned).collect::<Vec<_>>());
        // The first line is never a keyword.
        assert_eq!(parse("PIPELINING"), Extensions::default());
        let all = parse(
            "mx.example|pipelining|SIZE 1000|8BITMIME|SMTPUTF8|DSN|STARTTLS|AUTH CRAM-MD5 login|AUTH=PLAIN|LIMITS MAILMAX=5 RCPTMAX=20|X",
        );
        let expected = Extensions {
            pipelining: true,
            size: Some(Some(1000)),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            starttls: true,
            auth_plain: true,
            auth_login: true,
            max_recipients: Some(20),
        };
        assert_eq!(all, expected);
        for (line, size) in [("SIZE", None), ("SIZE 0", None), ("SIZE x", None), ("SIZE 99999999999999999999", None)] {
            assert_eq!(parse(&format!("mx|{line}")).size, Some(size), "{line}");
        }
        assert_eq!(parse("mx|LIMITS RCPTMAX=0").max_recipients, None);
    }
}
