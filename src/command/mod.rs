//! The command line: one file for each verb. Everything is wired together here, and nothing else is decided.

mod adopt;
mod archive;
mod demo;
mod descriptors;
mod import;
mod listener;
mod logging;
mod memory;
mod migrate;
mod progress;
mod recover;
mod report;
mod restore;
mod serve;
mod status;
mod sweep;
mod verify;
mod wiring;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LogFormat};
use crate::store::Conflicts;

pub use memory::return_large_memory;

/// An event store on Postgres that never outgrows Postgres: old events move to S3, readers never notice.
///
/// Everything is configured by environment variables, or by a file .env in the working directory:
/// docs/configuration.md lists them. POSTGRES_CONNECTION is the only one that is always needed.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = false)]
pub struct CommandLine {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve the API and, with STREAMS_ARCHIVE=true, archive in the background (the default)
    Serve,
    /// Bring the database's tables up to date, and exit
    Migrate,
    /// Import events, and exit
    ///
    /// The file has JSON objects, a line each or not, or one array of them: id, tenant_id, topic, stream, type,
    /// raised_at, payload. Ids and times are kept. Events that are there already are skipped and counted, so that you
    /// simply run an import again that was cut off. Another event under a known id ends the import, and its line is
    /// named.
    Import {
        /// A file of UTF-8 text, as it is or compressed with gzip or zstd; - is the standard input
        file: PathBuf,
        /// Skip and count events whose id another, different event has
        #[arg(long)]
        skip_conflicts: bool,
    },
    /// Archive now, until nothing eligible is left, and exit
    Archive,
    /// Put archived events back into Postgres, and exit
    ///
    /// Restores all events of an archive, or the events of a range or of a stream of a topic. They are not archived
    /// again before the hold is over. Every read gives the same answer, wherever the events are.
    Restore(restore::Arguments),
    /// Show what there is, in Postgres and in the bucket
    ///
    /// The topics with most events in Postgres, all topics together, and old events that are too few to be archived.
    Status(status::Arguments),
    /// Read every object and compare it with the catalog, and the catalog with itself
    ///
    /// Prints a line for each finding, and fails if there is one. The service may run meanwhile.
    Verify(verify::Arguments),
    /// Make the database know its bucket again: an empty one, or one that was restored to an earlier time
    ///
    /// Stop the service first. Prints a line for each object that cannot be recovered, and fails if there is one. Run
    /// it again to go on where it ended.
    Recover,
    /// Make the bucket this database's, and keep the one that owned it from writing
    ///
    /// Use it once a database was moved, upgraded with pg_upgrade, or restored from a backup, and is the right one from
    /// now on. It says who owns the bucket, and asks.
    Adopt {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete what dead writers left in the bucket, and list other objects that nobody needs
    ///
    /// Unfinished uploads of ours older than a day are aborted. Unknown objects of ours are listed, and objects that
    /// are not ours are left alone.
    Sweep(sweep::Arguments),
    /// Show the whole product on real events, with a Postgres and an S3 server of its own in a temporary folder
    Demo {
        /// Exit at the end instead of leaving the service running
        #[arg(long)]
        once: bool,
        /// Import the events of this file instead of the loan applications
        #[arg(long, value_name = "FILE")]
        data: Option<PathBuf>,
    },
}

impl CommandLine {
    /// Runs until the work is done or `shutdown` is cancelled.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let outcome = self.obey(shutdown).await;
        logging::finish();
        outcome
    }

    async fn obey(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        match self.verb.unwrap_or(Verb::Serve) {
            Verb::Serve => serve::run(&configured()?, shutdown).await,
            Verb::Migrate => until(shutdown, migrate::run(&configured()?)).await,
            Verb::Import { file, skip_conflicts } => {
                let conflicts = if skip_conflicts { Conflicts::Skip } else { Conflicts::StopAt };
                until(shutdown, import::run(&configured()?, &file, conflicts)).await
            }
            Verb::Archive => until(shutdown, archive::run(&configured()?)).await,
            Verb::Restore(arguments) => until(shutdown, restore::run(&configured()?, arguments)).await,
            Verb::Status(arguments) => until(shutdown, status::run(&configured()?, arguments)).await,
            Verb::Recover => until(shutdown, recover::run(&configured()?)).await,
            Verb::Adopt { yes } => until(shutdown, adopt::run(&configured()?, yes)).await,
            Verb::Verify(arguments) => until(shutdown, verify::run(&configured()?, arguments)).await,
            Verb::Sweep(arguments) => until(shutdown, sweep::run(&configured()?, arguments)).await,
            Verb::Demo { once, data } => {
                logging::start("warn", LogFormat::Text)?;
                demo::run(once, data, shutdown).await
            }
        }
    }
}

fn configured() -> anyhow::Result<Config> {
    let config = Config::from_environment()?;
    logging::start(&config.log_level, config.log_format)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    Ok(config)
}

/// Runs work that can be broken off at any moment, until it ends or `shutdown` is cancelled.
async fn until(shutdown: CancellationToken, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    shutdown.run_until_cancelled(work).await.unwrap_or_else(|| Err(anyhow::anyhow!("interrupted")))
}
