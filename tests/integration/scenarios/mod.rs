//! The scenarios of the gRPC contract, by their numbers.

mod outage;
mod pages;
mod personal;
mod publishing;
mod reading;
mod renaming;
mod sizes;
mod snapshots;
mod streams;
