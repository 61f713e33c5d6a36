use std::fmt::Write;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::event::Invalid;

/// Of a second's fraction: nanoseconds.
const DIGITS_MAX: usize = 9;

/// A moment, in nanoseconds since the Unix epoch: from 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(i64);

impl Instant {
    pub const fn from_unix_nanos(nanos: i64) -> Instant {
        Instant(nanos)
    }

    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    /// RFC 3339 with any offset and at most nanoseconds: what is finer would be cut off.
    pub fn parse(text: &str) -> Result<Instant, Invalid> {
        let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
        if fraction.bytes().take_while(u8::is_ascii_digit).count() > DIGITS_MAX {
            return Err(Invalid(format!("{text:?} has more than {DIGITS_MAX} digits of a second")));
        }
        // The Unix clock has no leap seconds: one would come back as the second before it.
        if text.get(17..19) == Some("60") {
            return Err(Invalid(format!("{text:?} is a leap second, which cannot be kept")));
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| Invalid(format!("{text:?} is no RFC 3339 date and time")))?;
        i64::try_from(moment.unix_timestamp_nanos())
            .map(Instant)
            .map_err(|_| Invalid(format!("{text:?} lies outside the years 1677 to 2262")))
    }

    /// Appends RFC 3339 in UTC, always with nine digits of a second.
    pub fn write_rfc3339(self, out: &mut String) {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0))
            .expect("every 64-bit nanosecond is a date that time can hold")
            .to_offset(UtcOffset::UTC);
        write!(
            out,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            moment.nanosecond(),
        )
        .expect("writing to a String cannot fail");
    }

    pub fn to_rfc3339(self) -> String {
        let mut out = String::with_capacity(30);
        self.write_rfc3339(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nine_digits_in_utc() {
        let instant = Instant::parse("2011-10-01T00:38:44.546+02:00").unwrap();
        assert_eq!(instant.to_rfc3339(), "2011-09-30T22:38:44.546000000Z");
        assert_eq!(Instant::from_unix_nanos(-1).to_rfc3339(), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let years = ["2263-01-01T00:00:00Z", "1500-01-01T00:00:00Z"];
        for text in ["", "2011-10-01", "2011-13-01T00:00:00Z", "2016-12-31T23:59:60Z"].into_iter().chain(years) {
            assert!(Instant::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tenth_digit_is_refused_and_not_cut_off() {
        let ninth = Instant::parse("2011-10-01T00:00:00.123456789+02:00").unwrap();
        assert_eq!(ninth.to_rfc3339(), "2011-09-30T22:00:00.123456789Z");
        for tenth in ["2011-10-01T00:00:00.1234567891Z", "2011-10-01T00:00:00.1234567890+02:00"] {
            let Invalid(why) = Instant::parse(tenth).unwrap_err();
            assert_eq!(why, format!("{tenth:?} has more than 9 digits of a second"));
        }
    }

    proptest! {
        #[test]
        fn every_nanosecond_survives(nanos: i64) {
            let instant = Instant::from_unix_nanos(nanos);
            prop_assert_eq!(Instant::parse(&instant.to_rfc3339()).unwrap(), instant);
        }
    }
}
