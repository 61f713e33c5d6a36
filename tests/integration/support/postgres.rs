//! One Postgres for all tests of this process, and a database of its own for each: a copy of one that was migrated.
//! Making a database drops those that nobody has any more, since the disk has its end, and a server with hundreds of
//! databases looks through them all the time.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use coldstream::database::Database;
use coldstream::embedded::{Durability, Postgres};
use futures::TryStreamExt;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{exit, server_programs};

const FOLDER_PREFIX: &str = "coldstream-tests-";
/// The database of a server that one test has to itself.
const DATABASE: &str = "test";
const TEMPLATE: &str = "template_of_tests";

struct Running {
    postgres: Postgres,
    /// The folder is dropped after the server.
    _folder: TempDir,
}

static RUNNING: Mutex<Option<Running>> = Mutex::const_new(None);
/// Names of databases that nobody has any more.
static LEFT: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

/// A database, in use for as long as this value lives.
pub struct TestDatabase {
    pub url: String,
    name: String,
    /// The database is on the server of all tests.
    is_shared: bool,
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if self.is_shared {
            LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
        }
    }
}

impl TestDatabase {
    /// Returns the same database, with one more parameter in its URL.
    pub fn with(mut self, parameter: &str) -> TestDatabase {
        self.url = format!("{}&{parameter}", self.url);
        self
    }

    pub async fn execute(&self, sql: String) {
        execute(&self.url, sql).await;
    }

    pub async fn migrate(&self) {
        migrate(&self.url).await;
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A server that one test has to itself, and that keeps everything it has acknowledged, whatever becomes of it.
pub struct OwnPostgres(Running);

impl OwnPostgres {
    pub async fn start() -> OwnPostgres {
        OwnPostgres(boot(Durability::Full, Vec::new()).await)
    }

    /// Starts a server that can be reached over TCP, too, at an address of its own and the usual port.
    pub async fn start_listening() -> (OwnPostgres, Ipv4Addr) {
        let [a, b] = std::process::id().to_be_bytes()[2..] else { unreachable!("two of four bytes") };
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let address = Ipv4Addr::new(127, STARTED.fetch_add(1, Ordering::SeqCst), a, b);
        (OwnPostgres(boot(Durability::Full, vec![format!("listen_addresses={address}")]).await), address)
    }

    /// Returns the URL of the first database, with which nothing was done.
    pub fn url(&self) -> String {
        self.0.postgres.connection("postgres")
    }

    /// Makes a database that has been migrated.
    pub async fn database(&self) -> TestDatabase {
        let name = DATABASE.to_owned();
        TestDatabase { url: self.0.migrated(&name).await, name, is_shared: false }
    }

    /// Starts a server on a copy of this one's folder, which recovers from its WAL and goes on on a timeline of its
    /// own: a backup that is restored beside the original, or a standby that is promoted. Nobody may write meanwhile.
    pub async fn copied(&self) -> OwnPostgres {
        execute(&self.0.postgres.connection("postgres"), "CHECKPOINT".to_owned()).await;
        let folder = new_folder();
        let (from, to) = (self.0._folder.path().join("postgres/data"), folder.path().join("postgres/data"));
        fs::create_dir(folder.path().join("postgres")).expect("the temporary folder can be written");
        // Files of statistics come and go meanwhile.
        Command::new("cp").arg("-a").args([&from, &to]).output().expect("cp can be run");
        fs::remove_file(to.join("postmaster.pid")).expect("the original runs");
        fs::write(to.join("recovery.signal"), "").expect("the copy is ours");
        let settings = to.join("postgresql.auto.conf");
        fs::write(settings, "restore_command = 'false'\n").expect("the copy is ours");
        // Postgres runs under the account that owns its folder.
        let owned = Command::new("chown").arg("--reference").args([&from, &to.join("recovery.signal")]).status();
        assert!(owned.expect("chown can be run").success());
        let copy = OwnPostgres(boot_in(folder, Durability::Full, Vec::new()).await);
        copy.promoted().await;
        copy
    }

    /// Returns once the server has ended its recovery, since it answers readers before.
    async fn promoted(&self) {
        let mut connection = PgConnection::connect(&self.0.postgres.connection("postgres")).await.expect("an answer");
        let in_recovery = "SELECT pg_is_in_recovery()";
        while sqlx::query_scalar(in_recovery).fetch_one(&mut connection).await.expect("an answer") {}
    }

    /// Returns the only database of the server, as it is.
    pub fn existing(&self) -> TestDatabase {
        TestDatabase { url: self.0.postgres.connection(DATABASE), name: DATABASE.to_owned(), is_shared: false }
    }

    /// Makes a database that has the rows of another one, table by table, like a dump that is restored.
    pub async fn restored(&self, TestDatabase { url, .. }: &TestDatabase) -> TestDatabase {
        let restored = self.database().await;
        let connect = async |url: &str| PgConnection::connect(url).await.expect("postgres accepts connections");
        let (mut from, mut to) = (connect(url).await, connect(&restored.url).await);
        let tables =
            "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename <> '_sqlx_migrations'";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut from).await.expect("an answer");
        for table in tables {
            execute(&restored.url, format!("TRUNCATE {table}")).await;
            let rows = from.copy_out_raw(&format!("COPY {table} TO STDOUT")).await.expect("a readable table");
            let rows: Vec<Bytes> = rows.try_collect().await.expect("all rows");
            let mut copy = to.copy_in_raw(&format!("COPY {table} FROM STDIN")).await.expect("a table");
            copy.send(rows.concat()).await.expect("the table takes rows");
            copy.finish().await.expect("the table has taken all rows");
        }
        restored
    }

    /// Kills the server and all its connections in the middle of whatever they do, and returns once another server has
    /// recovered from the WAL.
    pub async fn crash(&mut self) {
        self.0.postgres.restart().await.expect("postgres starts again");
    }
}

impl Running {
    async fn migrated(&self, name: &str) -> String {
        execute(&self.postgres.connection("postgres"), format!("CREATE DATABASE {name}")).await;
        let url = self.postgres.connection(name);
        migrate(&url).await;
        url
    }
}

async fn migrate(url: &str) {
    let database = Database::new(url, 2).expect("the url is one");
    database.migrate().await.expect("the migrations can be applied");
    database.close();
}

/// Makes a database that has been migrated.
pub async fn database() -> TestDatabase {
    copy_of(TEMPLATE).await
}

/// Copies a database of the same server as it is now, and disconnects everybody from it.
pub async fn copy(TestDatabase { name, .. }: &TestDatabase) -> TestDatabase {
    let running = RUNNING.lock().await;
    let server = running.as_ref().expect("the server was started").postgres.connection("postgres");
    drop(running);
    execute(&server, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    execute(&server, format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")).await;
    let copy = copy_of(name).await;
    execute(&server, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    copy
}

async fn copy_of(template: &str) -> TestDatabase {
    database_as(&format!("TEMPLATE {template}")).await
}

/// Makes a database, with these words behind `CREATE DATABASE`.
pub async fn database_as(words: &str) -> TestDatabase {
    let mut running = RUNNING.lock().await;
    if running.is_none() {
        *running = Some(start().await);
    }
    let postgres = &running.as_ref().expect("the server was started").postgres;
    let server = postgres.connection("postgres");
    let left = std::mem::take(&mut *LEFT.lock().unwrap_or_else(PoisonError::into_inner));
    for name in left {
        execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
    let name = format!("test_{}", Uuid::new_v4().simple());
    execute(&server, format!("CREATE DATABASE {name} {words}")).await;
    TestDatabase { url: postgres.connection(&name), name, is_shared: true }
}

/// Stops the server at the end of the process.
pub fn stop() {
    if let Ok(mut running) = RUNNING.try_lock() {
        drop(running.take());
    }
}

async fn start() -> Running {
    exit::register();
    clear_folders_of_the_dead();
    let mut running = boot(Durability::None, Vec::new()).await;
    // The change stream tells of events that move, and takes this setting and a restart.
    execute(&running.postgres.connection("postgres"), "ALTER SYSTEM SET wal_level = logical".to_owned()).await;
    running.postgres.restart().await.expect("postgres starts again");
    running.migrated(TEMPLATE).await;
    running
}

fn new_folder() -> TempDir {
    let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("the temporary folder can be written")
}

async fn boot(durability: Durability, settings: Vec<String>) -> Running {
    boot_in(new_folder(), durability, settings).await
}

async fn boot_in(folder: TempDir, durability: Durability, settings: Vec<String>) -> Running {
    let programs = server_programs::folder(folder.path());
    let postgres = Postgres::start_otherwise(folder.path(), durability, programs, settings)
        .await
        .unwrap_or_else(|error| panic!("the tests need PostgreSQL: {error}"));
    Running { postgres, _folder: folder }
}

async fn execute(url: &str, sql: String) {
    let mut connection = PgConnection::connect(url).await.expect("postgres accepts connections");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("postgres does what it is told");
    connection.close().await.expect("postgres says goodbye");
}

/// Clears the folders of test processes that were killed.
fn clear_folders_of_the_dead() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)) else { continue };
        let Some(process_id) = rest.split('-').next().and_then(|id| id.parse().ok()) else { continue };
        if kill(Pid::from_raw(process_id), None) == Err(Errno::ESRCH) {
            clear(&entry.path());
        }
    }
}

/// Clears a folder. Another user's folder stays, and so does one that its server is about to leave: the next run comes
/// back to it.
fn clear(folder: &Path) {
    let _ = fs::remove_dir_all(folder);
}
