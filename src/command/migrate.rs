use anyhow::Context;

use crate::command::wiring;
use crate::config::Config;

pub async fn run(config: &Config) -> anyhow::Result<()> {
    let database = wiring::open_database(config)?;
    database.migrate().await.context("POSTGRES_CONNECTION cannot be used")?;
    println!("the tables are up to date");
    Ok(())
}
