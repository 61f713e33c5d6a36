//! The words of notices. A notice is lost if nobody listens; replicas look now and then to make up for it.

use std::fmt;

use uuid::Uuid;

/// The most logs in one notice, because Postgres takes less than 8,000 bytes.
pub const LOG_IDS_MAX: usize = 350;

/// A notice that replicas send each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// There are new events in these logs.
    Published(Vec<i64>),
    /// An event of this log is to be sent to a group once more.
    Resent(i64),
    /// There may be progress to take.
    Released,
    /// The process with this id has stored a broadcast.
    Broadcast { process_id: Uuid, id: Uuid },
}

impl Word {
    pub fn parse(text: &str) -> Option<Word> {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match kind {
            "published" => rest.split(',').map(|id| id.parse().ok()).collect::<Option<_>>().map(Word::Published),
            "resent" => rest.parse().ok().map(Word::Resent),
            "released" => Some(Word::Released),
            "broadcast" => {
                let (process_id, id) = rest.split_once(' ')?;
                Some(Word::Broadcast { process_id: process_id.parse().ok()?, id: id.parse().ok()? })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Published(log_ids) => {
                let ids: Vec<String> = log_ids.iter().map(i64::to_string).collect();
                write!(formatter, "published {}", ids.join(","))
            }
            Word::Resent(log_id) => write!(formatter, "resent {log_id}"),
            Word::Released => write!(formatter, "released"),
            Word::Broadcast { process_id, id } => write!(formatter, "broadcast {process_id} {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood_and_short_enough() {
        let words = [
            Word::Published(vec![i64::MAX; LOG_IDS_MAX]),
            Word::Resent(7),
            Word::Released,
            Word::Broadcast { process_id: Uuid::now_v7(), id: Uuid::now_v7() },
        ];
        for word in words {
            let text = word.to_string();
            assert!(text.len() < 8_000);
            assert_eq!(Word::parse(&text), Some(word));
        }
        for text in ["", "published", "published 1,x", "broadcast 1 2", "hello"] {
            assert_eq!(Word::parse(text), None, "{text}");
        }
    }
}
