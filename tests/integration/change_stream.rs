//! Readers of the database's change stream can tell events that move from events that end.

use coldstream::event::PositionRange;
use coldstream::store::Selection;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{World, archive, import, old_event, settings};

/// The changes of one transaction: its messages by prefix and content, its rows of `events` as `I`, `U` or `D`.
#[derive(Debug, Default, PartialEq)]
struct Change {
    messages: Vec<(String, Value)>,
    rows: String,
}

/// Returns all changes since the last call, in the order of the commits.
async fn changes(sql: &PgPool, slot: &str) -> Vec<Change> {
    // The slot tells nothing that is not flushed yet.
    sqlx::query("CHECKPOINT").execute(sql).await.unwrap();
    let lines: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT data FROM pg_logical_slot_get_binary_changes(
             $1, NULL, NULL, 'proto_version', '1', 'publication_names', 'of_events', 'messages', 'true')",
    )
    .bind(slot)
    .fetch_all(sql)
    .await
    .unwrap();
    let mut changes = Vec::new();
    for line in lines {
        match line[0] {
            b'B' => changes.push(Change::default()),
            b'M' => changes.last_mut().unwrap().messages.push(message(&line)),
            kind @ (b'I' | b'U' | b'D') => changes.last_mut().unwrap().rows.push(kind.into()),
            _ => {}
        }
    }
    changes.retain(|change| *change != Change::default());
    changes
}

/// Parses a message: the kind, a byte of flags, the place in the WAL, the prefix, the length of the content, and the
/// content.
fn message(line: &[u8]) -> (String, Value) {
    assert_eq!(line[1], 1, "the message is part of its transaction");
    let end = line[10..].iter().position(|byte| *byte == 0).unwrap() + 10;
    let prefix = String::from_utf8(line[10..end].to_vec()).unwrap();
    (prefix, serde_json::from_slice(&line[end + 5..]).unwrap())
}

#[tokio::test]
async fn what_moves_is_announced_before_its_rows() {
    let mut world = World::new().await;
    let slot = format!("slot_{}", Uuid::new_v4().simple());
    sqlx::query("CREATE PUBLICATION of_events FOR TABLE events").execute(&world.sql).await.unwrap();
    sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')")
        .bind(&slot)
        .execute(&world.sql)
        .await
        .unwrap();
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    assert_eq!(changes(&world.sql, &slot).await, [Change { rows: "IIII".into(), ..Change::default() }]);
    assert_eq!(archive(&store).await, 4);
    let archive_id = world.only_archive(&store).await.id;
    let message = |prefix: &str, first: i64, last: i64| {
        let content = json!({"tenant": "acme", "topic": "orders", "archive_id": archive_id, "first_position": first,
                             "last_position": last, "count": last - first + 1});
        vec![(prefix.to_owned(), content)]
    };
    let moved = Change { messages: message("coldstream.archive", 1, 4), rows: "DDDD".into() };
    assert_eq!(changes(&world.sql, &slot).await, [moved]);
    store.restore(&Selection::Range(log.clone(), PositionRange::closed(2, 3)), 1, |_| {}).await.unwrap();
    let moved = Change { messages: message("coldstream.restore", 2, 3), rows: "II".into() };
    assert_eq!(changes(&world.sql, &slot).await, [moved]);
    sqlx::query("DELETE FROM events WHERE position = 2").execute(&world.sql).await.unwrap();
    assert_eq!(changes(&world.sql, &slot).await, [Change { rows: "D".into(), ..Change::default() }]);

    sqlx::query("SELECT pg_drop_replication_slot($1)").bind(&slot).execute(&world.sql).await.unwrap();
    let counted = "UPDATE logs SET deleted_count = 1, hot_magnitude = magnitude(head_position - archived_count - 1)";
    sqlx::query(counted).execute(&world.sql).await.unwrap();
    world.audit().await;
}
