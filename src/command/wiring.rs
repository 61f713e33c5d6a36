//! From settings to a store that is ready to work.

use std::sync::Arc;

use anyhow::{Context, bail};

use crate::bucket::{self, Abilities, Bucket};
use crate::config::Config;
use crate::database::Database;
use crate::store::Store;

/// Connects to Postgres, brings its tables up to date, and opens the bucket if one is needed: because old events are
/// archived, or because they have been.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<Store>> {
    let database = || {
        Database::new(&config.postgres_connection, config.postgres_connections_max)
            .context("POSTGRES_CONNECTION is no address of a Postgres database")
    };
    let without_bucket = Store::new(database()?, None, config.store.clone());
    without_bucket.migrate().await.context("POSTGRES_CONNECTION cannot be used")?;
    let has_archives = without_bucket.has_archives().await?;
    if !config.archive && !has_archives {
        return Ok(Arc::new(without_bucket));
    }
    let settings = config.bucket().context("events have been archived, and to read them a bucket is needed")?;
    let bucket = Arc::new(Bucket::new(settings).context("S3_ENDPOINT or S3_BUCKET is not usable")?);
    open_bucket(&bucket, settings, has_archives).await?;
    Ok(Arc::new(Store::new(database()?, Some(bucket), config.store.clone())))
}

/// Proves that the bucket can be used. One that was used before and is away now keeps nobody from their hot events.
async fn open_bucket(bucket: &Bucket, settings: &bucket::Settings, has_archives: bool) -> anyhow::Result<()> {
    let bucket::Settings { endpoint, bucket: name, .. } = settings;
    match bucket.ensure().await {
        Ok(()) => {
            probe(bucket).await;
            Ok(())
        }
        Err(error) if error.is_transient() && has_archives => {
            tracing::warn!(%error, "the bucket is away: archived events cannot be read until it is back");
            Ok(())
        }
        Err(error) if error.is_transient() => bail!("S3_ENDPOINT {endpoint} does not answer: {error}"),
        Err(error @ bucket::Error::Refused { status: 401 | 403, .. }) => {
            bail!("S3_ACCESS_KEY and S3_SECRET_KEY do not open the bucket {name} at {endpoint}: {error}")
        }
        Err(error) => bail!("S3_BUCKET {name} at {endpoint} cannot be used: {error}"),
    }
}

/// Says what the bucket does of what not every server does.
async fn probe(bucket: &Bucket) {
    match bucket.probe().await {
        Ok(Abilities { conditional_reads, conditional_writes, versions, range_copies }) => {
            tracing::info!(conditional_reads, conditional_writes, versions, range_copies, "the bucket was probed");
        }
        Err(error) => tracing::warn!(%error, "the bucket could not be probed"),
    }
}
