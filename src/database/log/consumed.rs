//! The deletion of events once they are consumed. Their ids are kept for a while in the same statement, so no event
//! goes without its id.

use std::collections::HashMap;

use crate::database::{Connection, Error};
use crate::event::Group;

/// Deletes the events of a log that every one of these groups has handled, and returns how many there were. An event
/// that a group could not handle stays, because it can be sent again. The ids of deleted events are kept for a minute.
pub async fn delete(connection: &mut Connection, log_id: i64, groups: &[Group]) -> Result<i64, Error> {
    let deleted = sqlx::query(
        "WITH deleted AS (
             DELETE FROM events
             WHERE log_id = $1
               AND position <= (
                   SELECT min(coalesce(progress.position, 0))
                   FROM unnest($2::text[], $3::boolean[]) AS required (group_name, is_parallel)
                   LEFT JOIN group_progress AS progress
                     ON progress.group_name = required.group_name AND progress.is_parallel = required.is_parallel
                    AND progress.log_id = $1
               )
               AND NOT EXISTS (SELECT FROM erroneous_events AS erroneous
                               WHERE erroneous.log_id = $1 AND erroneous.position = events.position)
               AND NOT EXISTS (SELECT FROM resends
                               WHERE resends.log_id = $1 AND resends.position = events.position)
             RETURNING id, position
         )
         INSERT INTO consumed_ids (log_id, id, position)
         SELECT $1, id, position FROM deleted ORDER BY position
         ON CONFLICT (log_id, id) DO UPDATE SET position = excluded.position, consumed_at = excluded.consumed_at",
    )
    .bind(log_id)
    .bind(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>())
    .bind(groups.iter().map(|group| group.is_parallel).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected() as i64)
}

/// Returns those of these ids whose events were deleted within the last minute, with the positions that the events had.
pub async fn positions(
    connection: &mut Connection,
    log_id: i64,
    ids: &[String],
) -> Result<HashMap<String, i64>, Error> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT id, position FROM consumed_ids
         WHERE log_id = $1 AND id = ANY($2) AND consumed_at > clock_timestamp() - interval '1 minute'
         ORDER BY position",
    )
    .bind(log_id)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Deletes the ids of events that were deleted more than a minute ago.
pub async fn forget(connection: &mut Connection, log_id: i64) -> Result<(), Error> {
    sqlx::query("DELETE FROM consumed_ids WHERE log_id = $1 AND consumed_at < clock_timestamp() - interval '1 minute'")
        .bind(log_id)
        .execute(connection)
        .await?;
    Ok(())
}
