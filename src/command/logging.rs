//! The log goes to the standard error; the answer of a command goes to the standard output.
//!
//! Nothing waits for the log: a thread of its own writes it, and lines that it cannot write (nobody reads, the disk is
//! full) are lost, and counted. A process that is killed may lose the last lines.

use std::io::IsTerminal;

use anyhow::Context;
use parking_lot::Mutex;
use tracing::Level;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// The most lines that wait to be written. Further lines are lost.
const LINES_MAX: usize = 10_000;

/// The thread that writes, and the number of the lines that it lost.
static WRITER: Mutex<Option<(WorkerGuard, ErrorCounter)>> = Mutex::new(None);

pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    // The embedded S3 server writes whole requests into its spans, and a request that it does not know is no error of
    // ours.
    let level: Level = level
        .parse()
        .ok()
        .filter(|_| level.chars().all(char::is_alphabetic))
        .with_context(|| format!("LOG_LEVEL {level:?} is none of error, warn, info, debug, trace"))?;
    let filter = EnvFilter::new(format!("{level},s3s=off,s3s_fs=off,sqlx::postgres::notice=warn"));
    let lossy = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX);
    let (writer, guard) = lossy.finish(std::io::stderr());
    *WRITER.lock() = Some((guard, writer.error_counter()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Returns the number of lines that were lost.
pub fn lost_lines() -> usize {
    let writer = WRITER.lock();
    writer.as_ref().map_or(0, |(_, lost)| lost.dropped_lines())
}

/// Writes the lines that wait, for about a second at most. Nothing is logged afterwards.
pub fn finish() {
    drop(WRITER.lock().take());
}
