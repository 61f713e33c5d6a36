//! A cursor says where the next page begins: a number that a client hands back and does not look into.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::api::http::problem::Problem;

/// The most digits of a cursor: positions and numbers of topics have no more.
const DIGITS_MAX: usize = 18;

pub fn parse(cursor: &str) -> Result<i64, Problem> {
    let is_number = (1..=DIGITS_MAX).contains(&cursor.len()) && cursor.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { cursor.parse().ok() } else { earlier(cursor) };
    number.ok_or_else(|| Problem::invalid("the cursor is not one that was given out"))
}

/// Reads a cursor of the form that earlier versions gave out, since some clients keep their cursors.
fn earlier(cursor: &str) -> Option<i64> {
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
    text.strip_prefix("1:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_of_earlier_versions_are_taken() {
        assert_eq!(parse("17").unwrap(), 17);
        assert_eq!(parse(&URL_SAFE_NO_PAD.encode("1:17")).unwrap(), 17);
        for wrong in ["", "-1", "+1", "x", "1234567890123456789", "MTox="] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
