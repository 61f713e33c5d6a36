//! The lines that a command prints, and numbers for people.

use indicatif::HumanCount;

/// Prints a line on the standard output. A reader that has closed it (`| head`) wants no more lines: the work and the
/// exit code stay the same.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub(super) use say;

/// A count with commas between thousands: `262,200`.
pub fn count(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", HumanCount(number.unsigned_abs()))
}

/// A size in the largest unit that it fills; units are powers of 1,000.
pub fn bytes(number: i64) -> String {
    let (unit, divisor) = match number {
        1_000_000_000.. => ("GB", 1e9),
        1_000_000.. => ("MB", 1e6),
        1_000.. => ("kB", 1e3),
        _ => return format!("{number} B"),
    };
    format!("{:.1} {unit}", number as f64 / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(262_200), "262,200");
        assert_eq!(count(-1_000), "-1,000");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(66_240), "66.2 kB");
        assert_eq!(bytes(84_000_000), "84.0 MB");
    }
}
