//! Edits of hot events. An event that somebody else changed meanwhile is not overwritten.

use super::from_row;
use crate::database::{Connection, Error};
use crate::event::Event;

/// Returns the hot events at these positions or with these ids, in order of position, and locks them until the
/// transaction ends.
pub async fn lock_hot(
    connection: &mut Connection,
    log_id: i64,
    positions: &[i64],
    ids: &[&str],
) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_events!(
        "WHERE log_id = $1 AND (position = ANY($2) OR id = ANY($3)) ORDER BY position FOR UPDATE"
    ))
    .bind(log_id)
    .bind(positions)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// Returns the hot events with a field of this GDPR id that still shows its value, in order of position, and locks them
/// until the transaction ends.
pub async fn lock_hot_by_gdpr_id(connection: &mut Connection, log_id: i64, gdpr_id: &str) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_events!(
        "WHERE log_id = $1 AND gdpr IS NOT NULL AND gdpr_ids(gdpr) @> ARRAY[$2] ORDER BY position FOR UPDATE"
    ))
    .bind(log_id)
    .bind(gdpr_id)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// Replaces the payload and the GDPR data. Returns false if the event is not hot any more, or has changed.
pub async fn replace(connection: &mut Connection, log_id: i64, old: &Event, new: &Event) -> Result<bool, Error> {
    let replaced = sqlx::query(
        "UPDATE events SET payload = $5, gdpr = $6
         WHERE log_id = $1 AND position = $2 AND payload = $3 AND gdpr IS NOT DISTINCT FROM $4",
    )
    .bind(log_id)
    .bind(old.position)
    .bind(old.payload.as_str())
    .bind(old.gdpr_json())
    .bind(new.payload.as_str())
    .bind(new.gdpr_json())
    .execute(connection)
    .await?;
    Ok(replaced.rows_affected() == 1)
}

/// Renames the type of hot events, and returns how many there were.
pub async fn rename(connection: &mut Connection, log_id: i64, old_type: &str, new_type: &str) -> Result<u64, Error> {
    let renamed = sqlx::query("UPDATE events SET type = $3 WHERE log_id = $1 AND type = $2")
        .bind(log_id)
        .bind(old_type)
        .bind(new_type)
        .execute(connection)
        .await?;
    Ok(renamed.rows_affected())
}
