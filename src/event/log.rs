use std::fmt;

use crate::event::{Invalid, NAME_BYTES_MAX, check_text};

/// A tenant and a topic, which together name one ordered log. The empty tenant is the global one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    tenant: String,
    topic: String,
}

impl Log {
    /// Takes any text without NUL as a name, up to 1,020 bytes each; the topic may not be empty.
    pub fn new(tenant: impl Into<String>, topic: impl Into<String>) -> Result<Log, Invalid> {
        let (tenant, topic) = (tenant.into(), topic.into());
        check_text("the tenant", &tenant, NAME_BYTES_MAX)?;
        check_text("the topic", &topic, NAME_BYTES_MAX)?;
        if topic.is_empty() {
            return Err(Invalid("the topic is empty".into()));
        }
        Ok(Log { tenant, topic })
    }

    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }
}

/// The form for log lines and messages: names are quoted, so that a line break in one cannot forge a line.
impl fmt::Display for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}/{:?}", self.tenant, self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(Log::new("", "orders").is_ok());
        assert!(Log::new("_", "../..").is_ok());
        assert!(Log::new("a\r\nb", "😀".repeat(255)).is_ok());
        assert!(Log::new("", "").is_err());
        assert!(Log::new("a\0b", "orders").is_err());
        assert!(Log::new("", "x".repeat(1021)).is_err());
    }
}
