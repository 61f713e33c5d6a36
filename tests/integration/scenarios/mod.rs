//! The scenarios of the gRPC contract, by their numbers.

mod outage;
mod pages;
mod publishing;
mod reading;
mod sizes;
mod snapshots;
mod streams;
