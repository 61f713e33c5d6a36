use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream::bucket::{self, Bucket, object_key};
use coldstream::database::catalog::archives::Archive;
use coldstream::database::catalog::leases::{self, Lease};
use coldstream::database::log::rows;
use coldstream::database::{self, Database};
use coldstream::event::{Eligibility, Event, Filter, Log, NewEvent, Patch};
use coldstream::store::{
    Conflicts, EditOutcome, EditRequest, ImportBatch, Published, Query, ReadingSettings, RequiredGroups, Settings,
    Store, SubscribingSettings,
};
use futures::future::BoxFuture;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use super::postgres::{self, TestDatabase};
use super::proxy::Proxy;
use super::s3::{self, Server};
use super::{OwnPostgres, PostgresProxy, RawBucket, audit};

/// The number of worlds at a time. Each has some connections to Postgres, which takes 200.
const WORLDS_MAX: usize = 6;
const CONNECTIONS_MAX: u32 = 8;
const LEASE_TERM: Duration = Duration::from_secs(60);

static WORLDS: Semaphore = Semaphore::const_new(WORLDS_MAX);

/// A database and a bucket that no other test knows of.
pub struct World {
    pub bucket: RawBucket,
    /// The proxy through which every store of this world reaches S3.
    pub proxy: Proxy,
    /// Connections for what only an operator with psql could do.
    pub sql: PgPool,
    database: TestDatabase,
    server: Server,
    bucket_name: String,
    is_audited: bool,
    _permit: SemaphorePermit<'static>,
}

/// A database as it was at one time.
pub struct Backup(TestDatabase);

impl Backup {
    /// Returns the address of a copy that somebody works with.
    pub fn url(&self) -> &str {
        &self.0.url
    }
}

fn connect(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect_lazy(url).expect("the url is one")
}

/// Returns settings for batches of this many events that are older than 30 days.
pub fn settings(batch_size: u64) -> Settings {
    let eligibility = Eligibility { older_than_days: 30, excluded_topics: BTreeSet::new(), batch_size };
    let subscribing = SubscribingSettings {
        required_groups: RequiredGroups::default(),
        consistency_wait: LEASE_TERM,
        delivery_attempts_max: 10,
    };
    let reading = ReadingSettings { bytes_max: 512 * 1024 * 1024, wait: Duration::from_secs(10) };
    let (lease_term, takeover_wait) = (LEASE_TERM, Duration::ZERO);
    Settings { eligibility, lease_term, takeover_wait, subscribing, event_bytes_max: 16 * 1024 * 1024, reading }
}

/// Returns settings for batches of this many events of another age.
pub fn older_than(days: u32, batch_size: u64) -> Settings {
    let settings = settings(batch_size);
    Settings { eligibility: Eligibility { older_than_days: days, ..settings.eligibility.clone() }, ..settings }
}

impl World {
    pub async fn new() -> World {
        World::over(postgres::database()).await
    }

    /// Makes a world over a database that somebody else has made.
    pub async fn over(database: impl Future<Output = TestDatabase>) -> World {
        let permit = WORLDS.acquire().await.expect("the semaphore is never closed");
        let (server, database) = tokio::join!(s3::server(), database);
        let bucket_name = format!("test-{}", Uuid::new_v4().simple());
        World {
            bucket: RawBucket::create(&server, &bucket_name).await,
            proxy: Proxy::start(server.address).await,
            sql: connect(&database.url),
            database,
            server,
            bucket_name,
            is_audited: false,
            _permit: permit,
        }
    }

    /// Returns the database as it is now, to come back to.
    pub async fn backup(&self) -> Backup {
        Backup(postgres::copy(&self.database).await)
    }

    /// Puts the database back as it was, in its place, for processes that are started from now on: the bucket stays its
    /// own. Earlier processes may not go on.
    pub async fn restore(&mut self, Backup(backup): &Backup) {
        self.use_database(postgres::copy(backup).await);
        if self.bucket.is_marked().await {
            self.store(settings(1)).adopt().await.unwrap();
        }
    }

    /// Replaces the database by one without anything, which is another deployment's, for processes that are started
    /// from now on.
    pub async fn lose_database(&mut self) {
        self.use_database(postgres::database().await);
        sqlx::query("UPDATE deployment SET id = gen_random_uuid(), hash_key = gen_random_uuid()")
            .execute(&self.sql)
            .await
            .unwrap();
    }

    /// Replaces the database by that of another server, for processes that are started from now on.
    pub fn move_to(&mut self, server: &OwnPostgres) {
        self.use_database(server.existing());
    }

    fn use_database(&mut self, database: TestDatabase) {
        self.sql = connect(&database.url);
        self.database = database;
    }

    pub fn log(&self) -> Log {
        Log::new("acme", "orders").expect("the names are fine")
    }

    /// Returns the store of a process that knows nothing of what others have in memory.
    pub fn store(&self, settings: Settings) -> Arc<Store> {
        Arc::new(Store::new(self.database(), Some(Arc::new(self.bucket_client())), settings))
    }

    /// Asks a query of one truth value until the answer is yes, for `patience` at most.
    pub async fn until(&self, query: &'static str, patience: Duration) {
        let asking = async { while !sqlx::query_scalar::<_, bool>(query).fetch_one(&self.sql).await.unwrap() {} };
        tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| panic!("never: {query}"));
    }

    /// Lets go of a process' store, after which the work of its connections is in Postgres' statistics.
    pub async fn end(&self, store: Arc<Store>) {
        drop(store);
        let is_over = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                                          WHERE datname = current_database() AND application_name = 'coldstream')";
        self.until(is_over, Duration::from_secs(10)).await;
    }

    /// Returns a way to Postgres that can be disturbed.
    pub async fn postgres_proxy(&self) -> PostgresProxy {
        PostgresProxy::start(&self.database.url).await
    }

    /// Returns a store that reaches Postgres through a proxy.
    pub fn store_behind(&self, postgres: &PostgresProxy, settings: Settings) -> Arc<Store> {
        self.store_with(&database::Settings::new(postgres.url(), CONNECTIONS_MAX), settings)
    }

    /// Returns a store whose database is asked in another way.
    pub fn store_with(&self, database: &database::Settings, settings: Settings) -> Arc<Store> {
        let database = Database::open(database).expect("the url is one");
        Arc::new(Store::new(database, Some(Arc::new(self.bucket_client())), settings))
    }

    /// Returns a store that was started without a bucket.
    pub fn store_without_bucket(&self) -> Arc<Store> {
        Arc::new(Store::new(self.database(), None, settings(1)))
    }

    pub fn database(&self) -> Database {
        Database::new(&self.database.url, CONNECTIONS_MAX).expect("the url is one")
    }

    /// Returns the address of the S3 server itself, past the proxy.
    pub fn server_address(&self) -> SocketAddr {
        self.server.address
    }

    /// Returns the variables by which a process finds this world.
    pub fn variables(&self) -> [(&'static str, String); 7] {
        [
            ("POSTGRES_CONNECTION", self.database.url.clone()),
            ("S3_ENDPOINT", self.proxy.address().to_string()),
            ("S3_ACCESS_KEY", self.server.access_key.clone()),
            ("S3_SECRET_KEY", self.server.secret_key.clone()),
            ("S3_BUCKET", self.bucket_name.clone()),
            ("S3_REGION", self.server.region.clone()),
            ("S3_SSL", "false".to_owned()),
        ]
    }

    pub fn bucket_client(&self) -> Bucket {
        Bucket::new(&self.bucket_settings()).expect("the settings are fine")
    }

    /// Deletes an object with its versions, whoever owns the bucket.
    pub async fn delete_whole(&self, key: &str) {
        let bucket = self.bucket_client();
        bucket.expect_owner(None, Instant::now());
        bucket.delete_whole(key).await.unwrap();
    }

    /// Returns the store of a process of another database over the same bucket, which looks whose bucket it is before
    /// every write.
    pub fn store_of(&self, url: &str, settings: Settings) -> Arc<Store> {
        let looking = bucket::Settings { look_interval: Duration::ZERO, ..self.bucket_settings() };
        let bucket = Bucket::new(&looking).expect("the settings are fine");
        Arc::new(Store::new(
            Database::new(url, CONNECTIONS_MAX).expect("the url is one"),
            Some(Arc::new(bucket)),
            settings,
        ))
    }

    pub fn url(&self) -> &str {
        &self.database.url
    }

    /// Restores a dump of this database in another cluster.
    pub async fn dump_into(&self, server: &OwnPostgres) -> Backup {
        Backup(server.restored(&self.database).await)
    }

    fn bucket_settings(&self) -> bucket::Settings {
        bucket::Settings {
            endpoint: self.proxy.address().to_string().parse().expect("an address"),
            credentials: bucket::Credentials::Keys {
                access_key: self.server.access_key.clone(),
                secret_key: self.server.secret_key.clone(),
            },
            ssl: false,
            bucket: self.bucket_name.parse().expect("a name"),
            addressing: bucket::Addressing::Path,
            writing: bucket::Writing::default(),
            region: self.server.region.clone(),
            cache_bytes_max: 64 * 1024 * 1024,
            reads_max: 8,
            is_read_only: false,
            look_interval: Duration::from_secs(5),
        }
    }

    /// Takes the lease on a log's archives, as a process that drives the steps by itself does.
    pub async fn lease(&self, log: &Log) -> Lease {
        let database = self.database();
        let mut transaction = database.begin_job().await.unwrap();
        let topic = rows::find(&mut transaction, log).await.unwrap().expect("somebody published");
        let lease = leases::take(&mut transaction, topic.id, Uuid::new_v4(), LEASE_TERM).await.unwrap();
        database::commit(transaction).await.unwrap();
        lease.expect("nobody else has it")
    }

    /// Returns once replicas have renewed their leases this many times.
    pub async fn watch_beats(&self, count: usize) {
        let mut seen: Vec<String> = Vec::new();
        while seen.len() <= count {
            // Each look is one statement of one connection, with a rest in between that Postgres counts by itself.
            let beat: Option<String> =
                sqlx::query_scalar("SELECT max(expires_at)::text FROM replicas, (SELECT pg_sleep(0.2)) AS rest")
                    .fetch_one(&self.sql)
                    .await
                    .unwrap();
            if let Some(beat) = beat.filter(|beat| seen.last() != Some(beat)) {
                seen.push(beat);
            }
        }
    }

    /// Returns once so many statements wait for a lock, with the ids of their processes.
    pub async fn lock_waits(&self, count: usize) -> Vec<i32> {
        let waiting =
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        loop {
            let pids: Vec<i32> = sqlx::query_scalar(waiting).fetch_all(&self.sql).await.unwrap();
            if pids.len() >= count {
                return pids;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Ends all leases, as time ends that of a process that died.
    pub async fn expire_leases(&self) {
        sqlx::query("UPDATE logs SET lease_expires_at = clock_timestamp() - interval '1 second'")
            .execute(&self.sql)
            .await
            .unwrap();
    }

    /// Does what a service does about what a dead one left.
    pub async fn recover(&self, store: &Store) {
        self.expire_leases().await;
        store.sweep().await.unwrap();
        store.rewrite().await.unwrap();
        store.archive(|_, _| {}).await.unwrap();
        store.sweep().await.unwrap();
    }

    /// Returns the only archive of the usual log.
    pub async fn only_archive(&self, store: &Store) -> Archive {
        let [archive] = store.archives(&self.log()).await.unwrap().try_into().expect("there is one archive");
        archive
    }

    pub fn key(&self, archive: &Archive) -> String {
        object_key(&self.log(), archive.id)
    }

    /// Checks that there is nothing that no reader reads: the part of an audit that looks into no object.
    pub async fn audit_leftovers(&self) {
        audit::leftovers(self).await;
    }

    /// Checks the promises that hold at every quiet moment, by other means than the store's, and by the store's. Every
    /// test ends with this.
    pub async fn audit(&mut self) {
        audit::audit(self).await;
        self.proxy.heal();
        assert_eq!(self.store(settings(1)).verify(|_| {}).await.unwrap(), []);
        self.is_audited = true;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.is_audited, "a test ends without an audit");
        }
    }
}

/// Imports events with their own times, as they come.
pub async fn import(store: &Store, log: &Log, events: impl IntoIterator<Item = NewEvent>) {
    let mut batch = ImportBatch::default();
    for event in events {
        batch.push(log.clone(), event).unwrap();
        if batch.is_full() {
            store.import(std::mem::take(&mut batch), Conflicts::StopAt).await.unwrap();
        }
    }
    store.import(batch, Conflicts::StopAt).await.unwrap();
}

pub async fn archive(store: &Store) -> i64 {
    store.archive(|_, _| {}).await.unwrap().events
}

pub async fn publish(store: &Arc<Store>, log: &Log, events: Vec<NewEvent>) -> Vec<Published> {
    store.publish(log, events).await.unwrap()
}

pub async fn edit(store: &Store, log: &Log, id: &str, patch: &str) -> EditOutcome {
    store.edit(log, id, &edit_request(patch)).await.unwrap().expect("there is such an event")
}

pub fn edit_request(patch: &str) -> EditRequest {
    EditRequest {
        patch: Patch::parse(patch).expect("a patch"),
        actor: "operator".into(),
        reason: "asked to".into(),
        ticket: "T-1".into(),
    }
}

pub fn everything() -> Query {
    Query { filter: Filter::All, from: 1, skip: 0, limit: i64::MAX }
}

/// Returns every event of a log.
pub async fn read_all(store: &Store, log: &Log) -> Vec<Event> {
    store.read(log, &everything()).await.unwrap().events
}

/// The pace of a repair that nobody slows down.
pub fn unpaced(_: i64) -> BoxFuture<'static, ()> {
    Box::pin(std::future::ready(()))
}
