//! The words and rules of the product, without IO: what an event is, which names it may bear, how a change applies to
//! it, and which events are old enough to be archived.

mod borrowed;
mod change;
mod eligibility;
mod filter;
mod gdpr;
mod group;
mod instant;
mod json;
mod json_object;
mod log;
mod patch;
mod positions;
mod record;

pub use borrowed::{BorrowedEvent, BorrowedMetadata};
pub use change::Change;
pub use eligibility::Eligibility;
pub use filter::Filter;
pub use gdpr::{Gdpr, GdprField};
pub use group::{Group, check_group, check_subscriber_id};
pub use instant::Instant;
pub use json::Json;
pub use json_object::ObjectOnly;
pub(crate) use json_object::{read_from_objects, written_as_derived};
pub use log::Log;
pub use patch::{Patch, Patched, pointer_to};
pub use positions::{Extent, PositionRange, PositionSet};
pub use record::{Edits, Event, Metadata, NewEvent};

/// The reason why an input is refused, in words for its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// The longest name, in bytes of UTF-8: 255 characters of four bytes.
const NAME_BYTES_MAX: usize = 1020;
/// The longest id, in bytes of UTF-8.
const ID_BYTES_MAX: usize = 255;

pub fn check_topic(name: &str) -> Result<(), Invalid> {
    check_text("the topic", name, NAME_BYTES_MAX)
}

/// Checks the name of a type: it may be as long as any name, and not empty.
pub fn check_type(name: &str) -> Result<(), Invalid> {
    if name.is_empty() {
        return Err(Invalid("the type is empty".into()));
    }
    check_text("the type", name, NAME_BYTES_MAX)
}

/// Refuses NUL, which Postgres does not keep in text, and text that is too long: an index entry has its limit.
fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Invalid> {
    if text.contains('\0') {
        return Err(Invalid(format!("{what} contains a NUL character")));
    }
    if text.len() > bytes_max {
        return Err(Invalid(format!("{what} is {} bytes long, at most {bytes_max} are allowed", text.len())));
    }
    Ok(())
}
