use std::time::Duration;

use anyhow::bail;

use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;

/// The delay between two attempts while another writer is at work.
const LOOK_AGAIN_DELAY: Duration = Duration::from_millis(500);

pub async fn run(config: &Config) -> anyhow::Result<()> {
    if config.bucket().is_ok_and(|bucket| bucket.is_read_only) {
        bail!("S3_READ_ONLY is true, so nothing is archived");
    }
    if !config.archive {
        bail!("STREAMS_ARCHIVE is not true, so nothing is archived");
    }
    let store = wiring::open_store(config).await?;
    let mut progress = Progress::start("archiving");
    let (mut events, mut archives) = (0, 0);
    loop {
        let swept = store.sweep().await;
        let archived = store.archive(|_, archived| progress.set((events + archived.events) as u64)).await;
        let rewritten = store.rewrite().await;
        // A lasting error keeps neither the other steps from their turn nor this command from ending.
        let archived = archived?;
        events += archived.events;
        archives += archived.archives;
        swept.and(rewritten)?;
        if archived.put_off == 0 && !store.has_unfinished().await? {
            break;
        }
        // Another writer is at work; or it died, and its lease will expire.
        tokio::time::sleep(LOOK_AGAIN_DELAY).await;
    }
    let seconds = progress.finish();
    report::say!("archived {} events in {} objects in {seconds:.1} s", report::count(events), report::count(archives));
    Ok(())
}
