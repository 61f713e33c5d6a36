//! Makes a store that is ready to work from settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::timeout;

use crate::bucket::{self, Bucket};
use crate::command::report;
use crate::config::Config;
use crate::database::{self, Address, Database};
use crate::store::{Error, Owner, Store, Unreconciled};

const CONNECTION: &str = "POSTGRES_CONNECTION";
const DIRECT_CONNECTION: &str = "POSTGRES_DIRECT_CONNECTION";
/// The longest time that a start waits for each of the first answers of S3: hot events are served without it.
const BUCKET_WAIT: Duration = Duration::from_secs(10);

/// The use that a command makes of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// Connects as [`connect`] does, and refuses a database that does not know what is in the bucket.
pub async fn open_store(config: &Config) -> anyhow::Result<Arc<Store>> {
    let store = connect(config).await?;
    if store.has_bucket() && !is_reconciled(&store, config).await? {
        tracing::warn!("the bucket is away: the database was not compared with it");
    }
    Ok(store)
}

/// Connects to Postgres, brings its tables up to date, and opens the bucket if one is needed: because old events are
/// archived, or because they have been.
pub async fn connect(config: &Config) -> anyhow::Result<Arc<Store>> {
    let database = migrated(config).await?;
    let without_bucket = Store::new(database.clone(), None, config.store.clone());
    let has_archives = without_bucket.has_archives().await?;
    if !config.archive && !has_archives {
        return Ok(Arc::new(without_bucket));
    }
    let settings = config.bucket().context("events have been archived, and to read them a bucket is needed")?;
    with_bucket(config, database, settings, has_archives).await
}

/// Connects for work on the bucket, whether or not the database needs one. A missing bucket is not made.
pub async fn connect_to_bucket(config: &Config) -> anyhow::Result<Arc<Store>> {
    let settings = config.bucket().context("a bucket is needed")?;
    with_bucket(config, migrated(config).await?, settings, true).await
}

/// Connects as [`connect_to_bucket`] does, and refuses a bucket that may not be used with this access.
pub async fn connect_to_own_bucket(config: &Config, access: Access) -> anyhow::Result<Arc<Store>> {
    let store = connect_to_bucket(config).await?;
    check_owner(&store, access).await?;
    Ok(store)
}

/// Refuses a bucket that is another deployment's, and a copy of the database that wants to write.
pub async fn check_owner(store: &Store, access: Access) -> anyhow::Result<()> {
    refuse_another(store, store.bucket_owner().await?, access)
}

/// Connects to Postgres, and brings its tables up to date.
pub async fn migrated(config: &Config) -> anyhow::Result<Database> {
    let Config { postgres_connection, postgres_direct_connection, postgres_connections_max, .. } = config;
    let addresses = [(CONNECTION, postgres_connection), (DIRECT_CONNECTION, postgres_direct_connection)];
    let are_two = postgres_connection != postgres_direct_connection;
    for (name, text) in addresses.into_iter().take(1 + usize::from(are_two)) {
        let address: Address = text.parse().with_context(|| format!("{name} cannot be used"))?;
        for parameter in address.without_effect {
            tracing::warn!(parameter, "a parameter of {name} has no effect: waiting has limits of its own");
        }
    }
    let name = if are_two { DIRECT_CONNECTION } else { CONNECTION };
    let settings = database::Settings::new(postgres_connection, *postgres_connections_max);
    let direct_url = postgres_direct_connection.clone();
    let settings = database::Settings { direct_url, ..settings.with_patience(config.postgres_timeout) };
    let database = Database::open(&settings)?;
    database.migrate().await.with_context(|| format!("{name} cannot be used"))?;
    drop(database.view().await.with_context(|| format!("{CONNECTION} cannot be used"))?);
    Ok(database)
}

async fn with_bucket(
    config: &Config,
    database: Database,
    settings: &bucket::Settings,
    has_archives: bool,
) -> anyhow::Result<Arc<Store>> {
    let bucket = Arc::new(Bucket::new(settings).context("S3_ENDPOINT or S3_BUCKET is not usable")?);
    open_bucket(&bucket, settings, has_archives).await?;
    Ok(Arc::new(Store::new(database, Some(bucket), config.store.clone())))
}

/// Proves that the bucket can be used. A bucket that was used before and is away now keeps nobody from the hot events.
async fn open_bucket(bucket: &Bucket, settings: &bucket::Settings, has_archives: bool) -> anyhow::Result<()> {
    let bucket::Settings { endpoint, bucket: name, .. } = settings;
    // An empty bucket in the place of a missing one would hide that its name is wrong.
    let opening =
        async { if has_archives || settings.is_read_only { bucket.open().await } else { bucket.ensure().await } };
    let silent = || bucket::Error::Unavailable { what: format!("nothing was heard for {} s", BUCKET_WAIT.as_secs()) };
    // A process without archives has nothing to serve before the bucket answers.
    let wait = if has_archives { BUCKET_WAIT } else { Duration::MAX };
    match timeout(wait, opening).await.unwrap_or_else(|_| Err(silent())) {
        Ok(()) => Ok(()),
        Err(bucket::Error::NotFound { .. }) => {
            bail!("S3_BUCKET {name} at {endpoint} is not there, and events have been archived: it is another bucket")
        }
        Err(error) if error.is_transient() && has_archives => {
            tracing::warn!(%error, "the bucket is away: archived events cannot be read until it is back");
            Ok(())
        }
        Err(error @ bucket::Error::NoCredentials { .. }) => bail!("{error}"),
        Err(error) if error.is_transient() => bail!("S3_ENDPOINT {endpoint} does not answer: {error}"),
        Err(error @ bucket::Error::Refused { status: 401 | 403, .. }) => {
            bail!("S3_ACCESS_KEY and S3_SECRET_KEY do not open the bucket {name} at {endpoint}: {error}")
        }
        Err(error) => bail!("S3_BUCKET {name} at {endpoint} cannot be used: {error}"),
    }
}

/// Compares the database with its bucket. Returns false if the bucket was used before and is away: hot events can be
/// served, and the caller asks again later. Refuses what must not be served: a bucket that is another deployment's, and
/// a database that is older than its bucket.
pub async fn is_reconciled(store: &Store, config: &Config) -> anyhow::Result<bool> {
    match reconcile(store, config).await {
        Ok(()) => Ok(true),
        Err(error) if is_away(&error) && store.has_archives().await? => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Unavailable(_)))
}

/// Refuses what must not be served, and marks a bucket without an owner as this database's.
async fn reconcile(store: &Store, config: &Config) -> anyhow::Result<()> {
    let name = config.bucket()?.bucket.as_str();
    let access = if store.is_read_only() { Access::Read } else { Access::Write };
    let silent = || Error::Unavailable(format!("the bucket did not say its owner for {} s", BUCKET_WAIT.as_secs()));
    let owner = timeout(BUCKET_WAIT, store.bucket_owner()).await.unwrap_or_else(|_| Err(silent()))?;
    refuse_another(store, owner, access)?;
    if access == Access::Read {
        // A copy gives positions of its own, and never archives them, so that it may be older than the bucket.
        tracing::info!("S3_READ_ONLY is true: archives are read, and nothing is written to the bucket");
        return Ok(());
    }
    let Unreconciled { of_another_time: archives, strangers, .. } = store.unreconciled().await?;
    if let Some(key) = strangers.first() {
        tracing::warn!(count = strangers.len(), key, "objects in the bucket are no archives of ours");
    }
    if let Some(key) = archives.first() {
        let found = format!(
            "the database is older than the bucket {name}: {} archives there are not as it knows them, such as {key}",
            report::count(archives.len() as i64)
        );
        if !config.start_unreconciled {
            bail!(
                "{found}; stop every replica and run `coldstream recover` (STREAMS_START_UNRECONCILED=true starts all \
                 the same, and gives positions twice)"
            );
        }
        tracing::error!("{found}");
    }
    if owner == Owner::Nobody {
        match store.claim_bucket().await {
            Ok(owner) => refuse_another(store, owner, access)?,
            // A process that may only read serves; the next start tries again.
            Err(error) => tracing::warn!(%error, "the bucket could not be marked as this database's"),
        }
    }
    // A bucket is not probed while its owner has time to answer, but when that time is over.
    if matches!(owner, Owner::Nobody | Owner::Ours) {
        store.probe_bucket().await;
    }
    Ok(())
}

fn refuse_another(store: &Store, owner: Owner, access: Access) -> anyhow::Result<()> {
    match owner {
        Owner::Another { .. } => bail!(store.why_fenced(owner)?),
        Owner::Copied { .. } if access == Access::Write => bail!(store.why_fenced(owner)?),
        _ => Ok(()),
    }
}
