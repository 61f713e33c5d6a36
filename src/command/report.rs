//! Numbers for people.

/// With a space between thousands: `262 200`.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// In powers of 1,000.
pub fn bytes(number: i64) -> String {
    match number {
        ..1_000 => format!("{number} B"),
        ..1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
        ..1_000_000_000 => format!("{:.1} MB", number as f64 / 1e6),
        _ => format!("{:.2} GB", number as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(262_200), "262 200");
        assert_eq!(count(-1_000), "-1 000");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(66_240), "66.2 kB");
        assert_eq!(bytes(84_000_000), "84.0 MB");
    }
}
