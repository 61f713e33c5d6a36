use anyhow::bail;
use clap::Args;
use time::Duration;

use crate::command::wiring::Access;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::store::{Leftover, SweepRequest};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only list what there is
    #[arg(long)]
    dry_run: bool,
    /// Leave unknown objects alone that are younger than this
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    older_than_days: u32,
    /// Delete objects of ours that neither the catalog nor an intent knows. If the database was put back to an earlier
    /// time, these may be archives that it does not know yet
    #[arg(long)]
    delete_unknown: bool,
}

/// The age at which an upload is aborted: no upload takes that long.
const UPLOAD_AGE: Duration = Duration::days(1);

/// Prints a line for each leftover.
pub async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { dry_run, older_than_days, delete_unknown } = arguments;
    let access = if dry_run { Access::Read } else { Access::Write };
    let store = wiring::connect_to_own_bucket(config, access).await?;
    let request = SweepRequest {
        is_dry: dry_run,
        deletes_unknown: delete_unknown,
        unknown_older_than: Duration::days(older_than_days.into()),
        uploads_older_than: UPLOAD_AGE,
    };
    let mut refused = 0;
    let tell = |leftover| {
        refused += i64::from(matches!(leftover, Leftover::Refused { .. }));
        report::say!("{}", line(&leftover));
    };
    let settled = store.sweep_bucket(request, tell).await?;
    report::say!("settled {} intents of writers that died", report::count(settled as i64));
    match refused {
        0 => Ok(()),
        count => bail!("{} objects were refused", report::count(count)),
    }
}

fn line(leftover: &Leftover) -> String {
    match leftover {
        Leftover::Unknown { key, is_deleted: false } => format!("unknown: {key}"),
        Leftover::Unknown { key, is_deleted: true } => format!("unknown, deleted: {key}"),
        Leftover::Upload { key, is_aborted: false } => format!("unfinished upload: {key}"),
        Leftover::Upload { key, is_aborted: true } => format!("unfinished upload, aborted: {key}"),
        Leftover::Probe { key, is_deleted: false } => format!("left by a probe: {key}"),
        Leftover::Probe { key, is_deleted: true } => format!("left by a probe, deleted: {key}"),
        // The name of a stranger may have any character.
        Leftover::Stranger { key } => format!("not ours: {}", key.escape_debug()),
        Leftover::Refused { key, why } => format!("refused: {key}: {why}"),
    }
}
