//! File descriptors: a connection takes one, and so do all other tasks of a process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The number of parts that all descriptors are divided into. The connections to one port may take one part: two parts
/// are left for Postgres, S3 and files.
const PARTS: u64 = 4;

/// Returns the number of connections that were asked for, or the lower one that the system's limit leaves room for.
pub fn within_limit(variable: &str, connections_max: usize) -> usize {
    let limit = match raised_limit() {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors is not known");
            return connections_max;
        }
    };
    let room = usize::try_from(limit / PARTS).unwrap_or(usize::MAX).max(1);
    if room < connections_max {
        tracing::warn!(limit, "{variable} is {room}: a quarter of the file descriptors that the process may have");
    }
    room.min(connections_max)
}

/// Raises the limit of the process to what the system allows, which is often a thousand times more, and returns it. The
/// limit was kept low for programs that use `select`.
fn raised_limit() -> nix::Result<u64> {
    let (limit, limit_max) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Nothing changes if the system does not allow it.
    let outcome = setrlimit(Resource::RLIMIT_NOFILE, limit_max, limit_max);
    Ok(if outcome.is_ok() { limit_max } else { limit })
}
