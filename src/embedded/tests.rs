//! Tests against the real servers. Run as root and as a normal user, they cover both ways of starting Postgres.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use super::{Durability, Error, Postgres, S3Server, keeper};

async fn number(postgres: &Postgres, sql: &'static str) -> i64 {
    let mut connection = PgConnection::connect(&postgres.connection("postgres")).await.unwrap();
    sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
}

async fn run(postgres: &Postgres, sql: &'static str) {
    let mut connection = PgConnection::connect(&postgres.connection("postgres")).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

/// Returns the processes that work in this data folder: the server, and every process that it started.
fn processes_in(folder: &Path) -> Vec<String> {
    let data = folder.canonicalize().unwrap().join("postgres/data");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == data))
        .map(|process| process.file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn postgres_serves_restarts_and_is_gone_when_dropped() {
    let folder = TempDir::new().unwrap();
    let mut postgres = Postgres::start(folder.path(), Durability::None).await.unwrap();
    run(&postgres, "CREATE TABLE kept (number BIGINT); INSERT INTO kept VALUES (7)").await;
    run(&postgres, "CREATE DATABASE \"an odd/name?\"").await;
    PgConnection::connect(&postgres.connection("an odd/name?")).await.unwrap();
    assert_eq!(number(&postgres, "SELECT count(*) FROM pg_settings WHERE name = 'fsync' AND setting = 'off'").await, 1);
    assert!(postgres.programs().join("psql").is_file());
    assert!(postgres.socket_folder().join(".s.PGSQL.5432").exists());

    postgres.restart().await.unwrap();
    assert_eq!(number(&postgres, "SELECT number FROM kept").await, 7);

    assert!(!processes_in(folder.path()).is_empty());
    postgres.stop().await;
    assert!(processes_in(folder.path()).is_empty());
}

#[tokio::test]
async fn postgres_serves_the_same_data_when_started_again_on_its_folder() {
    let folder = TempDir::new().unwrap();
    let postgres = Postgres::start(folder.path(), Durability::Full).await.unwrap();
    assert_eq!(number(&postgres, "SELECT count(*) FROM pg_settings WHERE name = 'fsync' AND setting = 'on'").await, 1);
    run(&postgres, "CREATE TABLE kept (number BIGINT); INSERT INTO kept VALUES (7)").await;
    drop(postgres);
    let postgres = Postgres::start(folder.path(), Durability::Full).await.unwrap();
    assert_eq!(number(&postgres, "SELECT number FROM kept").await, 7);
}

#[tokio::test]
async fn postgres_says_why_it_cannot_start() {
    let folder = TempDir::new().unwrap();
    Postgres::start(folder.path(), Durability::None).await.unwrap().stop().await;
    fs::write(folder.path().join("postgres/data/postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let error = Postgres::start(folder.path(), Durability::None).await.unwrap_err();
    assert!(matches!(error, Error::Failed { program: "postgres", .. }));
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn postgres_names_the_folder_that_keeps_it_out() {
    let private = TempDir::new().unwrap();
    let folder = private.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(private.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let started = Postgres::start(&folder, Durability::None).await;
    // Root becomes a user that may not pass, and any other user owns the folder.
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    assert_eq!(matches!(&started, Err(Error::Closed { path }) if path == private.path()), is_root, "{started:?}");
}

/// Serves until it is killed. The test below runs it as a process of its own.
async fn be_killed(folder: &Path) {
    let postgres = Postgres::start(folder, Durability::Full).await.unwrap();
    run(&postgres, "CREATE TABLE kept (number BIGINT); INSERT INTO kept VALUES (7)").await;
    println!("ready");
    number(&postgres, "SELECT count(*) FROM generate_series(1, 1000000000000)").await;
}

#[tokio::test]
async fn postgres_dies_with_its_parent_and_recovers() {
    if let Ok(folder) = std::env::var("COLDSTREAM_TEST_FOLDER") {
        return be_killed(Path::new(&folder)).await;
    }
    let folder = TempDir::new().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap());
    parent.args(["--exact", "embedded::tests::postgres_dies_with_its_parent_and_recovers", "--nocapture"]);
    parent.env("COLDSTREAM_TEST_FOLDER", folder.path()).stdout(Stdio::piped());
    let mut parent = keeper::spawn(parent).unwrap();
    let said = BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(said.map_while(Result::ok).any(|line| line.ends_with("ready")));
    // These are the server and at least its checkpointer, its writer and the connection in the middle of a long query.
    assert!(processes_in(folder.path()).len() > 4);

    parent.kill().unwrap();
    // The next server starts at once, to meet the first one in the middle of shutting down; if the first stayed, the
    // next could not start.
    let postgres = Postgres::start(folder.path(), Durability::Full).await.unwrap();
    assert_eq!(number(&postgres, "SELECT number FROM kept").await, 7);
    postgres.stop().await;
    parent.wait().unwrap();
    assert!(processes_in(folder.path()).is_empty());
}

#[test]
fn children_outlive_the_thread_that_asked_for_them() {
    let mut sleep = Command::new("sleep");
    sleep.arg("0.3");
    let mut child = thread::spawn(move || keeper::spawn(sleep).unwrap()).join().unwrap();
    // The child ends by itself, and not by a signal.
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn postgres_fetches_its_programs_where_none_are_installed() {
    let folder = TempDir::new().unwrap();
    let postgres = Postgres::start_with(folder.path(), Durability::None, Vec::new()).await.unwrap();
    assert!(postgres.programs().starts_with(folder.path().canonicalize().unwrap().join("postgres/programs")));
    assert!(number(&postgres, "SELECT current_setting('server_version_num')::bigint").await >= 140_000);
    postgres.stop().await;
    Postgres::start_with(folder.path(), Durability::None, Vec::new()).await.unwrap();
}

const KEYS: (&str, &str) = ("coldstream", "not a secret");

/// Starts a server and makes a bucket on it.
async fn bucket(folder: &Path, durability: Durability) -> (S3Server, Box<s3::Bucket>) {
    let server = S3Server::start(folder, KEYS.0, KEYS.1, durability).await.unwrap();
    let bucket = client(&server, KEYS.1);
    // The request of rust-s3's create() may carry a location that servers refuse: a PUT of the bucket itself will do.
    let made = bucket.put_object("/", b"").await.unwrap();
    assert_eq!(made.status_code(), 200);
    (server, bucket)
}

fn client(server: &S3Server, secret_key: &str) -> Box<s3::Bucket> {
    let region =
        s3::Region::Custom { region: "us-east-1".to_owned(), endpoint: format!("http://{}", server.endpoint()) };
    let credentials = s3::creds::Credentials::new(Some(KEYS.0), Some(secret_key), None, None, None).unwrap();
    s3::Bucket::new("events", region, credentials).unwrap().with_path_style()
}

fn status<T: std::fmt::Debug>(answer: Result<T, s3::error::S3Error>) -> u16 {
    match answer.unwrap_err() {
        s3::error::S3Error::HttpFailWithBody(status, _) => status,
        other => panic!("{other}"),
    }
}

fn with_header(bucket: &s3::Bucket, name: &'static str, value: &str) -> s3::Bucket {
    let mut headers = http::HeaderMap::new();
    headers.insert(name, value.parse().unwrap());
    bucket.with_extra_headers(headers).unwrap()
}

#[tokio::test]
async fn s3_puts_reads_lists_and_deletes() {
    let folder = TempDir::new().unwrap();
    let (_server, bucket) = bucket(folder.path(), Durability::Full).await;
    let put = with_header(&bucket, "x-amz-meta-tenant", "acme").put_object("a/b.json.gz", b"0123456789").await.unwrap();
    let etag = put.headers().get("etag").cloned().unwrap();
    let (head, _) = bucket.head_object("a/b.json.gz").await.unwrap();
    assert_eq!(head.metadata.unwrap()["tenant"], "acme");
    assert_eq!(head.e_tag.unwrap(), etag);
    let got = bucket.get_object_range("a/b.json.gz", 2, Some(4)).await.unwrap();
    assert_eq!((got.status_code(), got.as_slice(), &got.headers()["etag"]), (206, &b"234"[..], &etag));
    assert_eq!(with_header(&bucket, "if-match", &etag).get_object("a/b.json.gz").await.unwrap().status_code(), 200);
    assert_eq!(status(with_header(&bucket, "if-match", "\"other\"").get_object("a/b.json.gz").await), 412);
    assert_eq!(status(with_header(&bucket, "if-none-match", "*").put_object("a/b.json.gz", b"").await), 412);
    let page = &bucket.list("a/".to_owned(), None).await.unwrap()[0];
    assert_eq!((page.contents[0].key.as_str(), page.contents[0].size), ("a/b.json.gz", 10));
    assert_eq!(bucket.delete_object("a/b.json.gz").await.unwrap().status_code(), 204);
    assert_eq!(bucket.delete_object("a/b.json.gz").await.unwrap().status_code(), 204);
    assert_eq!(status(bucket.get_object("a/b.json.gz").await), 404);
    assert_eq!(status(bucket.head_object("a/b.json.gz").await), 404);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["events"], "metadata of a deleted object is left");
}

#[tokio::test]
async fn s3_keeps_the_metadata_of_a_multipart_upload_and_lists_unfinished_ones() {
    let folder = TempDir::new().unwrap();
    let (server, bucket) = bucket(folder.path(), Durability::Full).await;
    let content = vec![7_u8; 20 << 20];
    let tagged = with_header(&bucket, "x-amz-meta-tenant", "acme");
    tagged.put_object_stream(&mut &content[..], "a/large").await.unwrap();
    let (head, _) = bucket.head_object("a/large").await.unwrap();
    assert_eq!((head.content_length, head.metadata.unwrap()["tenant"].as_str()), (Some(20 << 20), "acme"));
    let got = bucket.get_object_range("a/large", 0, Some(0)).await.unwrap();
    let etag = head.e_tag.unwrap();
    assert!(etag.ends_with("-3\""), "{etag}");
    assert_eq!(got.headers()["etag"], etag);
    assert!(bucket.list_multiparts_uploads(None, None).await.unwrap()[0].uploads.is_empty());

    let upload = bucket.initiate_multipart_upload("b/unfinished", "text/plain").await.unwrap();
    bucket.put_multipart_chunk(vec![1; 100], "b/unfinished", 1, &upload.upload_id, "text/plain").await.unwrap();
    let listed = &bucket.list_multiparts_uploads(Some("b/"), None).await.unwrap()[0].uploads;
    assert_eq!((listed[0].key.as_str(), &listed[0].id), ("b/unfinished", &upload.upload_id));
    assert!(bucket.list_multiparts_uploads(Some("c/"), None).await.unwrap()[0].uploads.is_empty());
    bucket.abort_upload("b/unfinished", &upload.upload_id).await.unwrap();
    assert!(bucket.list_multiparts_uploads(None, None).await.unwrap()[0].uploads.is_empty());

    let upload = bucket.initiate_multipart_upload("b/unfinished", "text/plain").await.unwrap();
    bucket.put_multipart_chunk(vec![1; 100], "b/unfinished", 1, &upload.upload_id, "text/plain").await.unwrap();
    drop(server);
    let server = S3Server::start(folder.path(), KEYS.0, KEYS.1, Durability::Full).await.unwrap();
    let bucket = client(&server, KEYS.1);
    assert!(bucket.list_multiparts_uploads(None, None).await.unwrap()[0].uploads.is_empty());
    assert_eq!(bucket.head_object("a/large").await.unwrap().0.e_tag.unwrap(), etag);
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains("upload")).count(), 0);
}

#[tokio::test]
async fn s3_refuses_wrong_keys_missing_buckets_and_names_too_long() {
    let folder = TempDir::new().unwrap();
    let (server, bucket) = bucket(folder.path(), Durability::None).await;
    assert_eq!(status(client(&server, "wrong").put_object("a", b"a").await), 403);
    assert_eq!(bucket.put_object("k".repeat(129), b"a").await.unwrap().status_code(), 200);
    assert_eq!(status(bucket.put_object("k".repeat(130), b"a").await), 400);
    fs::remove_dir_all(folder.path().join("events")).unwrap();
    assert_eq!(status(bucket.put_object("a", b"a").await), 404);
}

#[tokio::test]
async fn s3_is_gone_when_dropped() {
    let folder = TempDir::new().unwrap();
    let (server, bucket) = bucket(folder.path(), Durability::None).await;
    let endpoint = server.endpoint();
    drop(server);
    tokio::task::yield_now().await;
    assert!(tokio::net::TcpStream::connect(endpoint).await.is_err());
    assert!(bucket.get_object("a").await.is_err());
}
