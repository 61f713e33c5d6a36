use anyhow::bail;

use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::store::Finding;

/// Prints what is wrong, a line each; any of it is a failure.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let store = wiring::connect(config).await?;
    let mut progress = Progress::start("verifying");
    let mut events = 0;
    let findings = store
        .verify(|verified| {
            events = verified;
            progress.set(verified as u64);
        })
        .await?;
    let seconds = progress.finish();
    for Finding { log, archive_id, what } in &findings {
        match archive_id {
            Some(archive_id) => println!("{log} archive {archive_id}: {what}"),
            None => println!("{log}: {what}"),
        }
    }
    println!("verified {} archived events in {seconds:.1} s", report::count(events));
    match findings.len() {
        0 => Ok(()),
        count => bail!("{count} findings"),
    }
}
