//! The scenarios of the gRPC contract, by their numbers.

mod personal;
mod renaming;
