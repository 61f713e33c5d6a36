use crate::event::{Invalid, NAME_BYTES_MAX, check_text};

/// A group in one of its two modes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    pub name: String,
    pub is_parallel: bool,
}

pub fn check_group(name: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(Invalid("the group is empty".into()));
    }
    check_text("the group", name, NAME_BYTES_MAX)
}

pub fn check_subscriber_id(id: &str) -> Result<(), Invalid> {
    check_text("the subscriber id", id, NAME_BYTES_MAX)
}
