use crate::command::{report, wiring};
use crate::config::Config;

pub async fn run(config: &Config) -> anyhow::Result<()> {
    wiring::migrated(config).await?;
    report::say!("the tables are up to date");
    Ok(())
}
