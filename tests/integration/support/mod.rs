//! The support of the tests: real servers, a world of its own for each test, and a check of every promise at its end.

mod audit;
mod events;
mod exit;
mod killing;
mod loss;
mod moto;
mod postgres;
mod postgres_proxy;
mod program;
mod proxy;
pub mod python;
mod raw;
mod s3;
mod server_programs;
mod service;
mod sql;
mod steps;
mod subscriber;
mod tls;
mod world;

pub use events::{DAY_NANOS, event, in_order, noise, now, old_event, payload, young_event};
pub use killing::{Moment, kill_at, run_twice};
pub use loss::Loss;
pub use postgres::{OwnPostgres, database, database_as};
pub use postgres_proxy::{PostgresProxy, SET_UP, StatementFate};
pub use program::{Ended, Program};
pub use proxy::{Fate, Gate, Kind, Proxy};
pub use raw::{MARKER, PROBE_PREFIX, RawBucket, unzip};
pub use service::Service;
pub use steps::{Mover, Step};
pub use subscriber::{Role, Subscriber, retry_number, subscribing};
pub use tls::{TlsFront, Validity};
pub use world::{
    Backup, World, archive, edit, edit_request, everything, import, older_than, publish, read_all, settings, unpaced,
};
