//! The scenarios of the gRPC contract, by their numbers.

mod erroneous;
mod groups;
mod personal;
mod renaming;
mod replicas;
mod soak;
mod subscribing;
