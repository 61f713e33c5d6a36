//! Administrators may maintain tables that are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coldstream::event::PositionRange;
use coldstream::store::Selection;
use uuid::Uuid;

use crate::support::{World, archive, event, import, old_event, publish, read_all, settings};

/// Each statement takes its lock, or waits for the locks of others, and takes its turn among publishers, readers and
/// the archiver.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_rewritten_and_indexes_built_anew_while_it_serves() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..100).map(old_event)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = {
        let (store, log, is_over) = (Arc::clone(&store), log.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut count = 100;
            while !is_over.load(Ordering::SeqCst) {
                publish(&store, &log, vec![event(count)]).await;
                count += 1;
                assert_eq!(read_all(&store, &log).await.len(), count);
            }
            count
        })
    };
    let archiving = {
        let (store, log, is_over) = (Arc::clone(&store), log.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                archive(&store).await;
                store.restore(&Selection::Range(log.clone(), PositionRange::closed(1, 30)), 0, |_| {}).await.unwrap();
            }
        })
    };
    for statement in [
        "VACUUM FULL events",
        "REINDEX TABLE CONCURRENTLY events",
        "VACUUM FULL logs",
        "REINDEX TABLE CONCURRENTLY lookup_pages",
        "VACUUM FULL archives",
        "CLUSTER events USING events_pkey",
        "VACUUM (FULL, ANALYZE)",
        "REINDEX TABLE events",
    ] {
        sqlx::query(statement).execute(&world.sql).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    is_over.store(true, Ordering::SeqCst);
    archiving.await.unwrap();
    let count = publishing.await.unwrap();
    assert_eq!(read_all(&store, &log).await.len(), count);
    world.recover(&store).await;
    world.audit().await;
}

/// A slot that nobody has read for long keeps nobody from anything, and is told everything.
#[tokio::test]
async fn a_logical_slot_that_lags_is_told_everything_later() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    let slot = format!("slot_{}", Uuid::new_v4().simple());
    sqlx::query("SELECT pg_create_logical_replication_slot($1, 'test_decoding')")
        .bind(&slot)
        .execute(&world.sql)
        .await
        .unwrap();
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    store.restore(&Selection::Range(log.clone(), PositionRange::closed(1, 4)), 0, |_| {}).await.unwrap();
    assert_eq!(archive(&store).await, 4);
    sqlx::query("VACUUM FULL events").execute(&world.sql).await.unwrap();
    publish(&store, &log, vec![event(8)]).await;

    // The slot tells nothing that is not flushed yet.
    sqlx::query("CHECKPOINT").execute(&world.sql).await.unwrap();
    let told: Vec<String> = sqlx::query_scalar("SELECT data FROM pg_logical_slot_get_changes($1, NULL, NULL)")
        .bind(&slot)
        .fetch_all(&world.sql)
        .await
        .unwrap();
    let count = |words: &str| told.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("table public.events: INSERT:"), 8 + 4 + 1);
    assert_eq!(count("table public.events: DELETE:"), 8 + 4);
    assert_eq!((count("prefix: coldstream.archive"), count("prefix: coldstream.restore")), (3, 1));
    sqlx::query("SELECT pg_drop_replication_slot($1)").bind(&slot).execute(&world.sql).await.unwrap();
    world.audit().await;
}
