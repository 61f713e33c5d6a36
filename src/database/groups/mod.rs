//! Groups: how far each is, which replica owns its progress, its erroneous events, and what replicas tell each other.

pub mod erroneous;
pub mod notices;
pub mod progress;
pub mod replicas;
