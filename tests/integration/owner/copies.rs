//! A database that was copied with SQL (by CREATE DATABASE … TEMPLATE, or by a dump that is restored in another
//! cluster) writes nothing to the bucket until it adopts it.

use std::time::Duration;

use coldstream::store::Error;
use serde_json::json;

use super::{challenged, contents, is_fenced, marker};
use crate::support::{
    Backup, MARKER, OwnPostgres, Program, Service, World, archive, edit, import, old_event, read_all, settings,
};

const BATCH: u64 = 4;

/// Makes an archive and a pending edit, which a copy made now has, too; `go_on` makes a second archive, which the copy
/// does not know. Returns the id of the first one.
async fn production(world: &World) -> String {
    let (store, log) = (world.store(settings(BATCH)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    assert!(Program::new(world, BATCH).run(&["archive"]).await.succeeded().starts_with("archived 4 events"));
    let id = world.only_archive(&store).await.id.to_string();
    edit(&store, &log, "event-1", r#"{"name":"pending"}"#).await;
    id
}

async fn go_on(world: &World) {
    let store = world.store(settings(BATCH));
    store.rewrite().await.unwrap();
    import(&store, &world.log(), (4..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 4);
}

fn program(world: &World, copy: &Backup) -> Program {
    let program = Program::new(world, BATCH).set("POSTGRES_CONNECTION", copy.url());
    let program = program.set("HTTP_ADDR", "127.0.0.1:0").set("GRPC_ADDR", "127.0.0.1:0");
    program.write("events.ndjson", "");
    program
}

/// Checks that every verb that would write refuses in one line, and that those that read do what they are asked for.
async fn check_copy(world: &mut World, copy: &Backup, archive_id: &str) {
    let before = contents(world).await;
    let marked = marker(world).await;
    let sweep = ["sweep", "--older-than-days", "0", "--delete-unknown"];
    let restore = ["restore", "--archive", archive_id];
    for words in [&["serve"][..], &["archive"], &["import", "-"], &restore, &sweep, &["verify", "--repair"]] {
        // The copy's age does not matter while nobody knows whether it is to be served.
        let line = program(world, copy).set("STREAMS_START_UNRECONCILED", "true").run(words).await.failed();
        assert!(is_fenced(&line), "{words:?}: {line}");
    }
    let status = program(world, copy).run(&["status"]).await.succeeded();
    assert!(status.contains("bucket: owned by another database (epoch 1)"), "{status}");
    assert!(program(world, copy).run(&["sweep", "--dry-run"]).await.code == Some(0));
    assert!(program(world, copy).run(&["adopt"]).await.errors.iter().any(|line| line.contains("nothing was changed")));
    assert_eq!((contents(world).await, marker(world).await), (before, marked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_of_the_database_writes_nothing() {
    let mut world = World::new().await;
    let archive_id = production(&world).await;
    let clone = world.backup().await;
    go_on(&world).await;
    check_copy(&mut world, &clone, &archive_id).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_that_is_restored_in_another_cluster_writes_nothing() {
    let mut world = World::new().await;
    let archive_id = production(&world).await;
    let staging = OwnPostgres::start().await;
    let dump = world.dump_into(&staging).await;
    go_on(&world).await;
    check_copy(&mut world, &dump, &archive_id).await;
    world.audit().await;
}

/// The copy reads and edits; its edits of archived events stay in its own database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_may_read_archives_and_write_none() {
    let mut world = World::new().await;
    let archive_id = production(&world).await;
    let clone = world.backup().await;
    let before = contents(&world).await;
    let marked = marker(&world).await;
    let program = || program(&world, &clone).set("S3_READ_ONLY", "true").set("STREAMS_ARCHIVE_INTERVAL_SECONDS", 1);
    let service = Service::start(program()).await;
    let url = format!("{}/v1/topics/orders/events/event-2?tenant=acme", service.http);
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 200);
    let edited = reqwest::Client::new()
        .patch(format!("{url}&actor=dpo&reason=trial&ticket=T-1"))
        .header("content-type", "application/merge-patch+json")
        .body(r#"{"payload":{"name":"edited here"}}"#);
    assert!(edited.send().await.unwrap().status().is_success());
    assert!(reqwest::get(&url).await.unwrap().text().await.unwrap().contains("edited here"));
    for words in [&["archive"][..], &["restore", "--archive", &archive_id], &["sweep"], &["adopt", "--yes"]] {
        let ended = program().run(words).await;
        let said = ended.errors.last().cloned().unwrap_or_default();
        assert!(ended.code == Some(1) && said.contains("S3_READ_ONLY"), "{words:?}: {ended:?}");
    }
    assert!(program().run(&["verify"]).await.code == Some(0));
    let status = program().run(&["status"]).await.succeeded();
    assert!(status.contains("and only read (S3_READ_ONLY)"), "{status}");
    service.finish().await;
    assert_eq!((contents(&world).await, marker(&world).await), (before, marked));
    // A copy that is behind catches up.
    go_on(&world).await;
    assert!(program().run(&["recover"]).await.succeeded().starts_with("recovered 8 events in 2 objects"));
    let (here, there) = (world.store_of(clone.url(), settings(BATCH)), world.store(settings(BATCH)));
    let ids = |events: Vec<coldstream::event::Event>| events.into_iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(read_all(&here, &world.log()).await), ids(read_all(&there, &world.log()).await));
    world.audit().await;
}

/// The database that adopts the bucket writes, and the earlier owner reads until it adopts the bucket again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_may_take_the_bucket_over() {
    let mut world = World::new().await;
    production(&world).await;
    let service = Service::start(Program::new(&world, BATCH).set("STREAMS_ARCHIVE_INTERVAL_SECONDS", 1)).await;
    // A rewrite after the copy was made would make the copy older than the bucket.
    world.until("SELECT NOT EXISTS (SELECT FROM pending_edits)", Duration::from_secs(60)).await;
    let clone = world.backup().await;
    let said = program(&world, &clone).run(&["adopt", "--yes"]).await.succeeded();
    assert!(
        said.contains("is owned by another database, with epoch 1") && said.contains("adopted with epoch 2"),
        "{said}"
    );
    let ready = format!("{}/ready", service.http);
    while !is_fenced(&reqwest::get(&ready).await.unwrap().text().await.unwrap()) {}
    let get = async |path: &str| reqwest::get(format!("{}{path}", service.http)).await.unwrap();
    assert!(get("/metrics").await.text().await.unwrap().contains("coldstream_bucket_owned 0"));
    let event = get("/v1/topics/orders/events/event-1?tenant=acme").await;
    assert!(event.text().await.unwrap().contains("pending"), "archived events are read");
    assert_eq!(get("/ready").await.status(), 200);
    let line = Program::new(&world, BATCH).run(&["archive"]).await.failed();
    assert!(is_fenced(&line), "{line}");
    program(&world, &clone).run(&["archive"]).await.succeeded();

    Program::new(&world, BATCH).run(&["adopt", "--yes"]).await.succeeded();
    while get("/ready").await.text().await.unwrap() != "ready\n" {}
    assert!(get("/metrics").await.text().await.unwrap().contains("coldstream_bucket_owned 1"));
    assert!(is_fenced(&program(&world, &clone).run(&["archive"]).await.failed()));
    service.finish().await;
    // The clone's archives are in the bucket.
    Program::new(&world, BATCH).run(&["recover"]).await.succeeded();
    Program::new(&world, BATCH).run(&["archive"]).await.succeeded();
    world.audit().await;
}

/// Nobody knows which one of several copies owns the bucket: the first one that comes does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_from_before_there_were_owners_is_marked_by_the_first_that_comes() {
    let mut world = World::new().await;
    let deployment: uuid::Uuid = sqlx::query_scalar("SELECT id FROM deployment").fetch_one(&world.sql).await.unwrap();
    world.bucket.put(MARKER, json!({"format": 1, "deployment_id": deployment}).to_string().into_bytes()).await;
    let archive_id = production(&world).await;
    assert_eq!((&marker(&world).await["format"], &marker(&world).await["owner"]["epoch"]), (&json!(2), &json!(1)));
    let clone = world.backup().await;
    go_on(&world).await;
    check_copy(&mut world, &clone, &archive_id).await;
    world.audit().await;
}

/// The owner may be gone for good or only for now: an operator says which, and no recovery guesses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_of_a_copy_does_not_take_the_bucket_over() {
    let mut world = World::new().await;
    production(&world).await;
    let clone = world.backup().await;
    let (before, marked) = (contents(&world).await, marker(&world).await);
    let recover = || program(&world, &clone).set("S3_TAKEOVER_SECONDS", 0);
    assert!(is_fenced(&recover().run(&["recover"]).await.failed()));
    assert_eq!((contents(&world).await, marker(&world).await), (before, marked));
    recover().run(&["adopt", "--yes"]).await.succeeded();
    recover().run(&["recover"]).await.succeeded();
    Program::new(&world, BATCH).run(&["adopt", "--yes"]).await.succeeded();
    let store = world.store(settings(BATCH));
    world.recover(&store).await;
    world.audit().await;
}

/// A recovery into an empty database takes the bucket over, unless the owner is at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_lives_keeps_its_bucket_from_a_recovery() {
    let mut world = World::new().await;
    production(&world).await;
    let owner = world.store_of(world.url(), settings(BATCH));
    owner.watch_bucket().await.unwrap();
    let empty = OwnPostgres::start().await;
    let recovering = settings(BATCH);
    let recovering = coldstream::store::Settings { takeover_wait: Duration::from_secs(600), ..recovering };
    let database = empty.database().await;
    sqlx::query("UPDATE deployment SET id = gen_random_uuid()")
        .execute(&sqlx::PgPool::connect_lazy(&database.url).unwrap())
        .await
        .unwrap();
    let store = world.store_of(&database.url, recovering);
    let recovering = tokio::spawn(async move { store.recover(|_| {}).await.map(drop) });
    challenged(&world, &recovering).await;
    owner.watch_bucket().await.unwrap();
    let Err(Error::Refused(why)) = recovering.await.unwrap() else { panic!("the owner has answered") };
    assert!(is_fenced(&why), "{why}");
    owner.rewrite().await.unwrap();
    drop(owner);
    world.audit().await;
}

/// A database whose role may not know the cluster is told from a copy by the database and the time at which the server
/// was started.
#[tokio::test]
async fn a_role_need_not_know_the_cluster() {
    let mut world = World::new().await;
    let mut connection = world.sql.acquire().await.unwrap();
    let known = "SELECT cluster_identifier() IS NOT NULL";
    assert!(sqlx::query_scalar::<_, bool>(known).fetch_one(&mut *connection).await.unwrap());
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    let statements = |words: String| sqlx::raw_sql(sqlx::AssertSqlSafe(words));
    statements(format!("CREATE ROLE {role}; SET ROLE {role}")).execute(&mut *connection).await.unwrap();
    assert!(
        sqlx::query_scalar::<_, bool>(known).fetch_one(&mut *connection).await.unwrap(),
        "every role may by default"
    );
    statements("RESET ROLE; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC".into())
        .execute(&mut *connection)
        .await
        .unwrap();
    statements(format!("SET ROLE {role}")).execute(&mut *connection).await.unwrap();
    assert!(!sqlx::query_scalar::<_, bool>(known).fetch_one(&mut *connection).await.unwrap());
    statements(format!("RESET ROLE; DROP ROLE {role}")).execute(&mut *connection).await.unwrap();
    drop(connection);
    world.audit().await;
}
