//! The keys of objects: `{tenant}/{topic}/{archiveId}.json.gz`.
//!
//! Two names never share a prefix, and no tenant's prefix lies within another's.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::Log;

/// The longest segment of a key. Servers that keep objects as files take 255 bytes a segment; S3 takes 1,024 a key.
const SEGMENT_BYTES_MAX: usize = 200;
/// The longest readable beginning of a shortened segment.
const PREFIX_BYTES_MAX: usize = 128;
const EMPTY_TENANT: &str = "_";
const SUFFIX: &str = ".json.gz";

pub fn object_key(log: &Log, archive_id: Uuid) -> String {
    format!("{}{archive_id}{SUFFIX}", log_prefix(log))
}

/// The folder in which the archives of a log are.
pub fn object_folder(log: &Log) -> String {
    log_prefix(log).trim_end_matches('/').to_owned()
}

/// The log whose archives are in a folder; `None` if no log's are, or if its names are too long for the folder to tell.
pub fn log_in_folder(folder: &str) -> Option<Log> {
    let (tenant, topic) = folder.split_once('/')?;
    let decode = |segment: &str| percent_decode_str(segment).decode_utf8().ok().map(String::from);
    let tenant = if tenant == EMPTY_TENANT { String::new() } else { decode(tenant)? };
    Log::new(tenant, decode(topic)?).ok().filter(|log| object_folder(log) == folder)
}

/// The archive that a key names; `None` if the key is no archive's.
pub fn archive_in_key(key: &str) -> Option<Uuid> {
    let [tenant, topic, name] = key.split('/').collect::<Vec<_>>().try_into().ok()?;
    let id = name.strip_suffix(SUFFIX)?;
    let archive_id = Uuid::parse_str(id).ok()?;
    let is_written_so = !tenant.is_empty() && !topic.is_empty() && archive_id.to_string() == id;
    is_written_so.then_some(archive_id)
}

/// The prefix of every object of a log.
fn log_prefix(log: &Log) -> String {
    let tenant = if log.tenant().is_empty() { EMPTY_TENANT.to_owned() } else { segment(log.tenant()) };
    format!("{tenant}/{}/", segment(log.topic()))
}

/// The ASCII characters that are encoded in a key: all but letters, digits, `-`, `_` and `.`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Percent-encodes a name. A name of dots only, and the name `_`, are encoded whole.
pub fn encode(name: &str) -> String {
    let is_special = name.bytes().all(|byte| byte == b'.') || name == EMPTY_TENANT;
    utf8_percent_encode(name, if is_special { NON_ALPHANUMERIC } else { ENCODED }).to_string()
}

/// The segment of a name. A name that is too long keeps its beginning, and its hash follows. `~` is always encoded in
/// names, so no name can look like a shortened one.
fn segment(name: &str) -> String {
    let encoded = encode(name);
    if encoded.len() <= SEGMENT_BYTES_MAX {
        return encoded;
    }
    let mut end = PREFIX_BYTES_MAX;
    while encoded.as_bytes()[end - 2..end].contains(&b'%') {
        end -= 1;
    }
    format!("{}~{}", &encoded[..end], hex::encode(Sha256::digest(name)))
}

/// The key of the marker. No archive has such a key: keys of archives have three segments.
pub(super) const MARKER_KEY: &str = "coldstream.json";

pub fn is_marker(key: &str) -> bool {
    key == MARKER_KEY
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(tenant: &str, topic: &str) -> String {
        log_prefix(&Log::new(tenant, topic).unwrap())
    }

    #[test]
    fn hostile_names_stay_in_their_place() {
        assert_eq!(prefix("acme-bank", "loan-applications"), "acme-bank/loan-applications/");
        assert_eq!(prefix("", "orders"), "_/orders/");
        assert_eq!(prefix("_", "orders"), "%5F/orders/");
        assert_eq!(prefix("../other", ".."), "..%2Fother/%2E%2E/");
        assert_eq!(prefix(".", "/a"), "%2E/%2Fa/");
        assert_eq!(prefix("%2e%2e%2f", "a\\b"), "%252e%252e%252f/a%5Cb/");
        assert_eq!(prefix("a\r\nb", "~"), "a%0D%0Ab/%7E/");
        assert_ne!(prefix("\u{e9}", "t"), prefix("e\u{301}", "t"), "NFC and NFD are two names");
    }

    #[test]
    fn only_what_may_be_an_archive_is_taken_for_one() {
        let archive_id = Uuid::from_u128(7);
        let key = object_key(&Log::new("", "a/b").unwrap(), archive_id);
        assert_eq!(archive_in_key(&key), Some(archive_id));
        for other in ["coldstream.json", "a/b/c.json.gz", &format!("x/{key}"), &key.to_uppercase(), &key[1..]] {
            assert_eq!(archive_in_key(other), None, "{other}");
        }
    }

    #[test]
    fn long_names_keep_within_the_limit() {
        let (one, other) = ("😀".repeat(255), format!("{}x", "😀".repeat(254)));
        let key = object_key(&Log::new(one.clone(), one.clone()).unwrap(), Uuid::nil());
        assert!(key.len() <= 1024, "{}", key.len());
        assert!(key.split('/').all(|segment| segment.len() <= 255));
        assert_ne!(prefix(&one, "t"), prefix(&other, "t"));
    }

    #[test]
    fn a_log_is_told_by_where_its_archives_are() {
        for (tenant, topic) in [("", "orders"), ("_", "a/b"), ("..", "%2e"), ("a\r\nb", "~"), ("é", "ü")] {
            let log = Log::new(tenant, topic).unwrap();
            assert_eq!(log_in_folder(&object_folder(&log)), Some(log));
        }
        let long = Log::new("😀".repeat(255), "t").unwrap();
        for folder in ["", "a", "a/b/c", "a b/c", "%5f/orders", &object_folder(&long)] {
            assert_eq!(log_in_folder(folder), None, "{folder}");
        }
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_place(one in "\\PC{1,80}", other in "\\PC{1,80}") {
            prop_assume!(one != other);
            let (first, second) = (prefix(&one, "t"), prefix(&other, "t"));
            prop_assert!(!first.starts_with(&second) && !second.starts_with(&first));
            prop_assert_ne!(prefix("t", &one), prefix("t", &other));
            prop_assert!(first.split('/').all(|segment| segment != "." && segment != ".."));
            prop_assert_ne!(prefix("", "t"), first);
        }
    }
}
