use crate::command::wiring;
use crate::config::Config;

pub async fn run(config: &Config) -> anyhow::Result<()> {
    wiring::migrated(config).await?;
    println!("the tables are up to date");
    Ok(())
}
