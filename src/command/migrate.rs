use anyhow::Context;

use crate::config::Config;
use crate::database::Database;

pub async fn run(config: &Config) -> anyhow::Result<()> {
    let database = Database::new(&config.postgres_connection, config.postgres_connections_max)?;
    database.migrate().await.context("POSTGRES_CONNECTION cannot be used")?;
    println!("the tables are up to date");
    Ok(())
}
