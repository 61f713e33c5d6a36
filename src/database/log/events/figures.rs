//! Figures of the hot events as a whole.

use crate::database::{Connection, Error};
use crate::event::{PositionRange, PositionSet};

/// Returns the positions of all hot events of a log.
pub async fn hot_positions(connection: &mut Connection, log_id: i64) -> Result<PositionSet, Error> {
    let ranges: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT min(position), max(position)
         FROM (
             SELECT position, position - row_number() OVER (ORDER BY position) AS range
             FROM events
             WHERE log_id = $1
         ) AS hot
         GROUP BY range
         ORDER BY min(position)",
    )
    .bind(log_id)
    .fetch_all(connection)
    .await?;
    Ok(ranges.into_iter().map(|(first, last)| PositionRange::closed(first, last)).collect())
}

/// Returns the bytes on disk of the table of hot events, with its indexes and long values.
pub async fn table_bytes(connection: &mut Connection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT pg_total_relation_size('events')").fetch_one(connection).await?)
}

/// Tells the planner how many events there are, and of what kind. After many were added at once, and before autovacuum
/// notices, the planner would expect few, and read and sort all of them for a page.
pub async fn collect_statistics(connection: &mut Connection) -> Result<(), Error> {
    sqlx::query("ANALYZE events").execute(connection).await?;
    Ok(())
}
