//! A Postgres and an S3 server for one section, each in a process of its own, so that their cost can be told from that
//! of the measured program.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use coldstream::bucket::Bucket;
use coldstream::config::Config;
use coldstream::database::Database;
use coldstream::embedded::{Durability, Postgres, S3Server, keeper};
use coldstream::store::Store;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::usage::{self, Usage};

pub const SERVE_S3: &str = "--serve-s3";
const BUCKET: &str = "events";
pub const ACCESS_KEY: &str = "access";
pub const SECRET_KEY: &str = "secret";
const COLDSTREAM: &str = env!("CARGO_BIN_EXE_coldstream");

pub struct Servers {
    pub folder: TempDir,
    pub postgres: Postgres,
    postmaster: u32,
    s3: Child,
    pub s3_endpoint: String,
}

impl Servers {
    pub async fn start(durability: Durability) -> Servers {
        let folder = tempfile::Builder::new().prefix("coldstream-bench-").tempdir().expect("a folder can be made");
        let postgres = Postgres::start(folder.path(), durability).await.expect("Postgres starts");
        let objects = folder.path().join("objects");
        std::fs::create_dir(&objects).expect("a folder can be made");
        let mut command = Command::new(std::env::current_exe().expect("this program knows where it is"));
        command.arg(SERVE_S3).arg(&objects).stdout(Stdio::piped());
        let mut s3 = keeper::spawn(command).expect("this program can be started");
        let mut s3_endpoint = String::new();
        let said = BufReader::new(s3.stdout.take().expect("it is piped")).read_line(&mut s3_endpoint);
        said.expect("the S3 server says where it is");
        let mut servers = Servers { folder, postgres, postmaster: 0, s3, s3_endpoint: s3_endpoint.trim().to_owned() };
        let pid_file: String = sqlx::query_scalar("SELECT pg_read_file('postmaster.pid')")
            .fetch_one(&mut servers.connect("postgres").await)
            .await
            .expect("Postgres knows its process");
        servers.postmaster = pid_file.lines().next().and_then(|line| line.parse().ok()).expect("a number");
        if durability == Durability::Full {
            servers.age().await;
        }
        servers
    }

    /// Makes Postgres work as a server does that has been up for a while, and writes over old files of its WAL: a new
    /// one stops all commits for some 35 ms whenever it makes another file, of 16 MB.
    async fn age(&self) {
        self.execute("postgres", "ALTER SYSTEM SET min_wal_size = '1GB'").await;
        self.execute("postgres", "SELECT pg_reload_conf()").await;
        let fill = "SELECT pg_logical_emit_message(false, '', repeat('x', 1024 * 1024)) FROM generate_series(1, 1024)";
        self.execute("postgres", fill).await;
        self.execute("postgres", "CHECKPOINT").await;
    }

    pub async fn connect(&self, database: &str) -> PgConnection {
        PgConnection::connect(&self.postgres.connection(database)).await.expect("Postgres can be reached")
    }

    /// Installs Message DB if MESSAGE_DB names a file with its SQL; false if it does not.
    pub async fn make_message_db(&self) -> bool {
        let Some(path) = std::env::var_os("MESSAGE_DB") else { return false };
        let sql = std::fs::read_to_string(path).expect("MESSAGE_DB names a file");
        self.execute("postgres", "CREATE DATABASE message_db").await;
        self.execute("message_db", &sql).await;
        true
    }

    /// Connects as the users of Message DB do, with its schema in their search path.
    pub async fn connect_to_message_db(&self) -> PgConnection {
        let mut connection = self.connect("message_db").await;
        let set = sqlx::query("SET search_path TO message_store, public").execute(&mut connection).await;
        set.expect("a search path can be set");
        connection
    }

    pub async fn execute(&self, database: &str, sql: &str) {
        let mut connection = self.connect(database).await;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the statement is right");
        connection.close().await.expect("the connection can be closed");
    }

    /// Copies a database, and leaves nothing to be written to disk.
    pub async fn copy_database(&self, template: &str, copy: &str) {
        self.execute("postgres", &format!("CREATE DATABASE {copy} TEMPLATE {template}")).await;
        self.execute(copy, "VACUUM ANALYZE").await;
        self.execute("postgres", "CHECKPOINT").await;
    }

    /// Stops the process of the S3 server until the returned guard is dropped.
    pub fn pause_s3(&self) -> Paused {
        // The process is our child, which is not waited for before `self` is dropped.
        let process = Pid::from_raw(self.s3.id() as i32);
        kill(process, Signal::SIGSTOP).expect("the S3 server can be signalled");
        Paused(process)
    }

    /// The processor time of Postgres so far, with all its processes.
    pub fn postgres_cpu_seconds(&self) -> f64 {
        usage::cpu_seconds(self.postmaster)
    }

    fn variables(&self, database: &str) -> [(&'static str, String); 8] {
        [
            ("POSTGRES_CONNECTION", self.postgres.connection(database)),
            ("LOG_LEVEL", "warn".to_owned()),
            ("STREAMS_ARCHIVE", "true".to_owned()),
            ("S3_ENDPOINT", self.s3_endpoint.clone()),
            ("S3_SSL", "false".to_owned()),
            ("S3_ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("S3_SECRET_KEY", SECRET_KEY.to_owned()),
            // A bucket belongs to one database.
            ("S3_BUCKET", bucket(database)),
        ]
    }

    /// Makes a bucket for the ways that know nothing of Coldstream.
    pub async fn make_bucket(&self, database: &str) -> Box<s3::Bucket> {
        let endpoint = format!("http://{}", self.s3_endpoint);
        let region = s3::Region::Custom { region: "us-east-1".to_owned(), endpoint };
        let keys = s3::creds::Credentials::new(Some(ACCESS_KEY), Some(SECRET_KEY), None, None, None);
        let (name, keys) = (bucket(database), keys.expect("they are keys"));
        let options = s3::BucketConfiguration::default();
        let made = s3::Bucket::create_with_path_style(&name, region.clone(), keys.clone(), options).await;
        assert!(made.expect("a bucket can be made").success());
        s3::Bucket::new(&name, region, keys).expect("its address is good").with_path_style()
    }

    /// The command that runs the binary, with this database and bucket in its environment.
    pub fn coldstream(&self, database: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(COLDSTREAM);
        command.args(arguments).env_clear().envs(self.variables(database));
        command.current_dir(self.folder.path()).stdout(Stdio::null());
        command
    }

    /// A store in this process, with this database and bucket.
    pub async fn store(&self, database: &str, batch_size: u64) -> Arc<Store> {
        self.store_with(database, ("STREAMS_ARCHIVE_SIZE", batch_size.to_string())).await
    }

    /// A store that keeps nothing of what it has read.
    pub async fn forgetful_store(&self, database: &str) -> Arc<Store> {
        self.store_with(database, ("S3_CACHE_BYTES", "0".to_owned())).await
    }

    async fn store_with(&self, database: &str, variable: (&'static str, String)) -> Arc<Store> {
        let variables = self.variables(database).into_iter().chain([variable]);
        let config = Config::from_variables(variables.map(|(name, value)| (name.to_owned(), value)));
        let config = config.expect("the variables are good");
        let bucket = Bucket::new(config.bucket().expect("there is one")).expect("its address is good");
        bucket.ensure().await.expect("the bucket can be made");
        let database = Database::new(&config.postgres_connection, config.postgres_connections_max);
        let store = Store::new(database.expect("it is a url"), Some(Arc::new(bucket)), config.store);
        store.migrate().await.expect("the database can be migrated");
        store.probe_bucket().await;
        Arc::new(store)
    }
}

/// The guard of a stopped process, which goes on when the guard is dropped.
pub struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        // A server that has ended by itself is as good.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // A server that has ended by itself is as good.
        let _ = self.s3.kill();
        let _ = self.s3.wait();
    }
}

/// The name of the bucket of a database.
pub fn bucket(database: &str) -> String {
    format!("{BUCKET}-{}", database.replace('_', "-"))
}

/// Runs a command to its end, and expects it to succeed.
pub async fn run(mut command: Command) -> Usage {
    let started = Instant::now();
    usage::wait(command.spawn().expect("the program can be started"), started).await
}

/// Serves S3 until the process is killed.
pub fn serve_s3(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    runtime.block_on(async {
        let server = S3Server::start(folder, ACCESS_KEY, SECRET_KEY, Durability::None).await.expect("S3 starts");
        println!("{}", server.endpoint());
        std::future::pending::<()>().await;
    });
}
