//! Dates as header fields have them (RFC 5322 §3.3).

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

/// In UTC, as `+0000`: a bare timestamp would be printed with `-0000`, which says that the zone is not known.
pub fn date(when: Timestamp) -> String {
    let when = when.to_zoned(TimeZone::UTC);
    // Only years beyond 9999 can't be printed.
    DateTimePrinter::new().zoned_to_string(&when).unwrap_or_else(|_| "Thu, 1 Jan 1970 00:00:00 +0000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_rfc_5322() {
        assert_eq!(date(Timestamp::UNIX_EPOCH), "Thu, 1 Jan 1970 00:00:00 +0000");
    }
}
