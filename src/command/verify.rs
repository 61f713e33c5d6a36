use anyhow::bail;
use clap::Args;

use crate::command::progress::Progress;
use crate::command::wiring::Access;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::jobs::Pace;
use crate::store::{Finding, Repaired};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Repair what can be repaired without guessing; the rest is still a failure
    #[arg(long)]
    repair: bool,
    /// Read at most this many bytes a second
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    bytes_per_second: u64,
}

/// Prints a line for each finding. A finding that was not repaired is a failure.
pub async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { repair, bytes_per_second } = arguments;
    let store = wiring::connect(config).await?;
    if store.has_bucket() {
        let access = if repair { Access::Write } else { Access::Read };
        wiring::check_owner(&store, access).await?;
        if repair {
            store.probe_bucket().await;
        }
    }
    let mut progress = Progress::start("verifying");
    let pace = Pace::new(bytes_per_second);
    let pace = |bytes| pace.spend(bytes);
    let mut events = 0;
    let verified = |verified| {
        events = verified;
        progress.set(verified as u64);
    };
    let Repaired { repaired, left } = match repair {
        true => store.repair(&pace, verified).await?,
        false => Repaired { left: store.verify_at(&pace, verified).await?, ..Repaired::default() },
    };
    let seconds = progress.finish();
    repaired.iter().for_each(|finding| report::say!("repaired: {}", line(finding)));
    left.iter().for_each(|finding| report::say!("{}", line(finding)));
    report::say!("verified {} archived events in {seconds:.1} s", report::count(events));
    match left.len() {
        0 => Ok(()),
        count => bail!("{} findings", report::count(count as i64)),
    }
}

fn line(Finding { log, archive_id, what }: &Finding) -> String {
    match archive_id {
        Some(archive_id) => format!("{log} archive {archive_id}: {what}"),
        None => format!("{log}: {what}"),
    }
}
