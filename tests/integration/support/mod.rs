//! What the tests stand on: real servers, a world of its own for each test, and a check of every promise at its end.

mod audit;
mod events;
mod exit;
mod moto;
mod postgres;
mod proxy;
mod raw;
mod world;

pub use events::{DAY_NANOS, event, now, old_event, payload, young_event};
pub use proxy::{Fate, Gate, Kind};
pub use raw::{RawBucket, unzip};
pub use world::{World, archive, edit, edit_request, everything, import, publish, read_all, settings};
