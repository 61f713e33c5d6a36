//! Snapshots: the stand-ins for the first events of streams. An id names one snapshot of a log, and a snapshot that
//! somebody else changed meanwhile is not overwritten.

use crate::database::log::events::from_row;
use crate::database::{Connection, Error};
use crate::event::Event;

macro_rules! select_snapshots {
    ($rest:literal) => {
        concat!(
            "SELECT position, raised_at, deployment_id, id, stream, type, reason, correlation_id, causation_id, ",
            "user_id, payload, gdpr FROM snapshots ",
            $rest
        )
    };
}

/// Adds a snapshot, which bears the position of the last event that it stands for. Returns false if the log has a
/// snapshot with this id.
pub async fn insert(connection: &mut Connection, log_id: i64, snapshot: &Event) -> Result<bool, Error> {
    let inserted = sqlx::query(
        "INSERT INTO snapshots (log_id, position, raised_at, deployment_id, id, stream, type, reason, correlation_id,
                                causation_id, user_id, payload, gdpr)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT ON CONSTRAINT snapshots_pkey DO NOTHING",
    )
    .bind(log_id)
    .bind(snapshot.position)
    .bind(snapshot.raised_at.unix_nanos())
    .bind(snapshot.metadata.deployment_id)
    .bind(&snapshot.id)
    .bind(&snapshot.stream)
    .bind(&snapshot.event_type)
    .bind(&snapshot.reason)
    .bind(&snapshot.metadata.correlation_id)
    .bind(&snapshot.metadata.causation_id)
    .bind(&snapshot.metadata.user_id)
    .bind(snapshot.payload.as_str())
    .bind(snapshot.gdpr_json())
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

pub async fn find(connection: &mut Connection, log_id: i64, id: &str) -> Result<Option<Event>, Error> {
    let row = sqlx::query(select_snapshots!("WHERE log_id = $1 AND id = $2"))
        .bind(log_id)
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(from_row).transpose()
}

/// Returns the snapshot that stands for the most events of a stream, among those that a reader of this deployment may
/// use.
pub async fn newest(
    connection: &mut Connection,
    log_id: i64,
    stream: &str,
    deployment_id: i64,
) -> Result<Option<Event>, Error> {
    let row = sqlx::query(select_snapshots!(
        "WHERE log_id = $1 AND stream = $2 AND (deployment_id = 0 OR deployment_id <= $3)
         ORDER BY position DESC, id DESC LIMIT 1"
    ))
    .bind(log_id)
    .bind(stream)
    .bind(deployment_id)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(from_row).transpose()
}

/// Replaces the payload and the GDPR data. Returns false if the snapshot has changed.
pub async fn replace(connection: &mut Connection, log_id: i64, old: &Event, new: &Event) -> Result<bool, Error> {
    let replaced = sqlx::query(
        "UPDATE snapshots SET payload = $5, gdpr = $6
         WHERE log_id = $1 AND id = $2 AND payload = $3 AND gdpr IS NOT DISTINCT FROM $4",
    )
    .bind(log_id)
    .bind(&old.id)
    .bind(old.payload.as_str())
    .bind(old.gdpr_json())
    .bind(new.payload.as_str())
    .bind(new.gdpr_json())
    .execute(connection)
    .await?;
    Ok(replaced.rows_affected() == 1)
}

/// Returns the snapshots with a field of this GDPR id that still shows its value, and locks them until the transaction
/// ends.
pub async fn lock_by_gdpr_id(connection: &mut Connection, log_id: i64, gdpr_id: &str) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_snapshots!(
        "WHERE log_id = $1 AND gdpr IS NOT NULL AND gdpr_ids(gdpr) @> ARRAY[$2] ORDER BY id FOR UPDATE"
    ))
    .bind(log_id)
    .bind(gdpr_id)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// Renames the type of snapshots, and returns how many there were.
pub async fn rename(connection: &mut Connection, log_id: i64, old_type: &str, new_type: &str) -> Result<u64, Error> {
    let renamed = sqlx::query("UPDATE snapshots SET type = $3 WHERE log_id = $1 AND type = $2")
        .bind(log_id)
        .bind(old_type)
        .bind(new_type)
        .execute(connection)
        .await?;
    Ok(renamed.rows_affected())
}
