use std::time::Duration;

use anyhow::bail;

use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::event::PositionRange;
use crate::store::{RecoveredLog, Recovery, Superseded, Unrecovered};

/// The delay between two attempts while another writer has the lease; a writer that died has it until it expires.
const LOOK_AGAIN_DELAY: Duration = Duration::from_secs(1);

/// Prints a line for everything that is lost or cannot be recovered. Only an object that cannot be recovered is a
/// failure.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let store = wiring::connect_to_bucket(config).await?;
    let mut progress = Progress::start("recovering");
    let (mut archives, mut events, mut superseded) = (0, 0, Vec::new());
    let Recovery { gaps, unrecovered, strangers, .. } = loop {
        let mut recovery = store.recover(|recovered| progress.set((events + recovered) as u64)).await?;
        superseded.append(&mut recovery.superseded);
        archives += recovery.archives;
        events += recovery.events;
        if recovery.put_off == 0 {
            break recovery;
        }
        tokio::time::sleep(LOOK_AGAIN_DELAY).await;
    };
    let seconds = progress.finish();
    for RecoveredLog { log, head_position, gone } in &gaps {
        report::say!("{log}: {} of {} positions are gone", report::count(*gone), report::count(*head_position));
    }
    for Superseded { log, first_position, last_position, .. } in &superseded {
        for range in store.nowhere(log, PositionRange::closed(*first_position, *last_position)).await?.ranges() {
            let (first, last) = (range.start, range.last());
            report::say!("{log}: positions {first} to {last} went from an archive into rows, and are lost with them");
        }
    }
    for Unrecovered { object, why } in &unrecovered {
        report::say!("{object}: {why}");
    }
    if !strangers.is_empty() {
        report::say!("{} other objects are no archives", report::count(strangers.len() as i64));
    }
    report::say!("recovered {} events in {} objects in {seconds:.1} s", report::count(events), report::count(archives));
    match unrecovered.len() {
        0 => Ok(()),
        count => bail!("{} objects were not recovered", report::count(count as i64)),
    }
}
