//! The gRPC contract, tried end to end: what clients of a service may rely on.

mod absent;
mod delivering;
mod erroneous;
mod groups;
mod hot;
mod outage;
mod pages;
mod personal;
mod publishing;
mod reading;
mod renaming;
mod replicas;
mod restarting;
mod rolling;
mod sizes;
mod snapshots;
mod soak;
mod streams;
mod subscribing;
mod unreceived;
