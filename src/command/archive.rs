use anyhow::bail;

use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;

pub async fn run(config: &Config) -> anyhow::Result<()> {
    if !config.archive {
        bail!("STREAMS_ARCHIVE is not true, so nothing is archived");
    }
    let store = wiring::open_store(config).await?;
    store.sweep().await?;
    let mut progress = Progress::start("archiving");
    let archived = store.archive(|_, archived| progress.set(archived.events as u64)).await?;
    store.rewrite().await?;
    let seconds = progress.finish();
    println!(
        "archived {} events in {} objects in {seconds:.1} s",
        report::count(archived.events),
        report::count(archived.archives)
    );
    Ok(())
}
