//! Groups: their progress, the replicas that own it, their erroneous events, and the notices of replicas.

pub mod erroneous;
pub mod notices;
pub mod progress;
pub mod replicas;
