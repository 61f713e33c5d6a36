//! A recovery may be killed at any request: another run makes up for whatever was under way.

use crate::recover::check_reads;
use crate::support::{Moment, World, archive, edit, import, old_event, read_all, run_twice, settings, young_event};

const BATCH: usize = 3;

/// Kills the recovery of a database that is lost, or was restored to before an archive, an edit and a rewrite.
async fn kill_each(is_lost: bool, moment: Moment) {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(BATCH as u64)), world.log());
    import(&store, &log, (0..BATCH).map(old_event)).await;
    archive(&store).await;
    import(&store, &log, (BATCH..2 * BATCH).map(old_event).chain([young_event(2 * BATCH)])).await;
    let backup = world.backup().await;
    archive(&store).await;
    edit(&store, &log, "event-1", r#"{"name":"edited"}"#).await;
    store.rewrite().await.unwrap();
    let mut expected = read_all(&store, &log).await;
    if is_lost {
        expected.truncate(2 * BATCH);
    }
    for k in 1.. {
        if is_lost {
            world.lose_database().await
        } else {
            world.restore(&backup).await
        }
        let is_reached = run_twice(&world, ("recover", BATCH), moment, k).await;
        check_reads(&world.store(settings(1)), &log, &expected).await;
        world.expire_leases().await;
        world.audit().await;
        if !is_reached {
            assert!(k > 6, "{k} requests are too few to recover two archives");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovering_a_lost_database_may_be_killed_at_any_request() {
    kill_each(true, Moment::Asking).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovering_a_restored_database_may_be_killed_before_any_reply() {
    kill_each(false, Moment::Answered).await;
}

/// The connection to Postgres breaks off in the middle of an archive's transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_is_recovered_or_untouched() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(BATCH as u64)), world.log());
    import(&store, &log, (0..2 * BATCH).map(old_event)).await;
    archive(&store).await;
    let before = read_all(&store, &log).await;
    world.lose_database().await;
    let store = world.store(settings(BATCH as u64));
    let log_row = "INSERT INTO logs (tenant, topic) VALUES ('acme', 'orders')";
    sqlx::query(log_row).execute(&world.sql).await.unwrap();
    let deployment: uuid::Uuid = sqlx::query_scalar("SELECT id FROM deployment").fetch_one(&world.sql).await.unwrap();
    store.claim_bucket().await.unwrap();
    // The transaction waits where it inserts the members, behind the row of the archive.
    let mut holder = world.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE members IN EXCLUSIVE MODE").execute(&mut *holder).await.unwrap();
    let recovering = tokio::spawn({
        let store = store.clone();
        async move { store.recover(|_| {}).await.map(drop) }
    });
    let waiting = world.lock_waits(1).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(waiting[0]).execute(&world.sql).await.unwrap();
    assert!(recovering.await.unwrap().is_err());
    holder.rollback().await.unwrap();
    for table in ["SELECT count(*) FROM archives", "SELECT count(*) FROM members", "SELECT count(*) FROM lookup_pages"]
    {
        assert_eq!(sqlx::query_scalar::<_, i64>(table).fetch_one(&world.sql).await.unwrap(), 0, "{table}");
    }
    store.recover(|_| {}).await.unwrap();
    assert_eq!(
        sqlx::query_scalar::<_, uuid::Uuid>("SELECT id FROM deployment").fetch_one(&world.sql).await.unwrap(),
        deployment
    );
    check_reads(&store, &log, &before).await;
    world.audit().await;
}
