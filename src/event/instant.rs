use std::ops::Range;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::event::Invalid;

/// The most digits of a second's fraction: nanoseconds.
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

    /// Parses RFC 3339 with any offset. More than nine digits of a second are refused: the rest would be cut off.
    pub fn parse(text: &str) -> Result<Instant, Invalid> {
        let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
        if fraction.bytes().take_while(u8::is_ascii_digit).count() > DIGITS_MAX {
            return Err(Invalid(format!("{text:?} has more than {DIGITS_MAX} digits of a second")));
        }
        // The Unix clock has no leap seconds: a leap second would come back as the second before it.
        if text.get(17..19) == Some("60") {
            return Err(Invalid(format!("{text:?} is a leap second, which cannot be kept")));
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .map_err(|_| Invalid(format!("{text:?} is no RFC 3339 date and time")))?;
        i64::try_from(moment.unix_timestamp_nanos())
            .map(Instant)
            .map_err(|_| Invalid(format!("{text:?} lies outside the years 1677 to 2262")))
    }

    /// The moment in RFC 3339 and UTC, always with nine digits of a second.
    pub fn rfc3339(self) -> [u8; 30] {
        let moment = OffsetDateTime::UNIX_EPOCH + Duration::nanoseconds(self.0);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let mut write = |range: Range<usize>, mut number: u32| {
            for digit in text[range].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        // The year is one of 1677 to 2262: it has four digits and no sign.
        write(0..4, moment.year().unsigned_abs());
        write(5..7, u8::from(moment.month()).into());
        write(8..10, moment.day().into());
        write(11..13, moment.hour().into());
        write(14..16, moment.minute().into());
        write(17..19, moment.second().into());
        write(20..29, moment.nanosecond());
        text
    }

    pub fn to_rfc3339(self) -> String {
        self.rfc3339().map(char::from).iter().collect()
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
