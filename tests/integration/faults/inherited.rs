//! Timeouts and isolation that a role or a database has by default end nothing of ours, not even behind a transaction
//! pooler; and nothing of ours is open in Postgres while S3 takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coldstream::database;
use coldstream::event::{Json, NewEvent};
use uuid::Uuid;

use super::PATIENCE;
use crate::support::{
    Kind, PostgresProxy, StatementFate, World, archive, import, in_order, old_event, publish, read_all, settings,
};

const SETTINGS: [&str; 6] = [
    "statement_timeout = '300ms'",
    "lock_timeout = '100ms'",
    "idle_in_transaction_session_timeout = '100ms'",
    "idle_session_timeout = '500ms'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
];
const BATCH: usize = 60;
const IS_IDLE: &str = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                                          WHERE datname = current_database() AND application_name = 'coldstream'
                                            AND state <> 'idle')";

/// Returns the settings of a role that has all these defaults: past a pooler, and as if there were one in between.
async fn ways(world: &World, postgres: &PostgresProxy) -> [database::Settings; 2] {
    let role = format!("hasty_{}", Uuid::new_v4().simple());
    let mut statements = format!("CREATE ROLE {role} SUPERUSER LOGIN");
    for setting in SETTINGS {
        statements += &format!("; ALTER ROLE {role} SET {setting}");
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&world.sql).await.unwrap();
    let (_, place) = postgres.url().split_once('@').expect("the URL has a user");
    let direct = database::Settings::new(&format!("postgres://{role}@{place}"), 8);
    let direct_url = format!("{}&application_name=direct", direct.url);
    [direct.clone(), database::Settings { direct_url, ..direct }]
}

/// Returns an event of which a batch makes several parts of an upload.
fn large(number: usize) -> NewEvent {
    let noise: String = (0..10_000).map(|_| Uuid::new_v4().simple().to_string()).collect();
    NewEvent { payload: Json::parse_object(&format!(r#"{{"noise":"{noise}"}}"#)).unwrap(), ..old_event(number) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_of_a_role_end_nothing_of_ours() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    for (round, settings_of_database) in ways(&world, &postgres).await.into_iter().enumerate() {
        let store = world.store_with(&settings_of_database, settings(BATCH as u64));
        store.migrate().await.unwrap();
        import(&store, &log, (round * BATCH..(round + 1) * BATCH).map(large)).await;
        let pieces = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&pieces);
        postgres.script(move |statement| {
            seen.fetch_add(usize::from(statement.starts_with("COPY (SELECT position")), Ordering::SeqCst);
            StatementFate::Pass
        });
        let gate = world.proxy.hold_first(Kind::PutPart);
        let archiving = tokio::spawn({
            let store = store.clone();
            async move { archive(&store).await }
        });
        gate.arrival().await;
        // The rest of the batch is exported after this.
        world.until(IS_IDLE, PATIENCE).await;
        sqlx::query("SELECT pg_sleep(0.6)").execute(&world.sql).await.unwrap();
        gate.open();
        assert_eq!(archiving.await.unwrap(), BATCH as i64);
        // The batch has 19 MB, of which 1 MiB and an event are in memory at once.
        let pieces = pieces.load(Ordering::SeqCst);
        assert!((15..=20).contains(&pieces), "{pieces}");
    }
    assert_eq!(read_all(&world.store(settings(1)), &log).await.len(), 2 * BATCH);
    world.audit().await;
}

/// A statement waits for a lock for as long as its caller waits for anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_wait_for_locks_for_as_long_as_they_wait_for_anything() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let calm = world.store(settings(3));
    publish(&calm, &log, vec![old_event(0)]).await;
    for (number, settings_of_database) in ways(&world, &postgres).await.into_iter().enumerate() {
        let store = world.store_with(&settings_of_database, settings(3));
        let mut holding = world.sql.begin().await.unwrap();
        sqlx::query("SELECT FROM logs FOR UPDATE").execute(&mut *holding).await.unwrap();
        let publishing = publish(&store, &log, vec![old_event(number + 1)]);
        let waiting = async {
            world.lock_waits(1).await;
            sqlx::query("SELECT pg_sleep(1)").execute(&mut *holding).await.unwrap();
            holding.commit().await.unwrap();
        };
        tokio::join!(publishing, waiting);
    }
    assert_eq!(read_all(&calm, &log).await, in_order(0..3));
    world.audit().await;
}
