//! The events that leave their rows: which ones are next, and their deletion.

use sqlx::Row;
use time::OffsetDateTime;

use crate::database::{Connection, Error, Transaction};
use crate::event::{PositionRange, PositionSet};

/// The most positions that one statement may delete.
const POSITIONS_AT_ONCE: usize = 10_000;

/// Returns the range of a batch: the first `batch_size` old events in order of position that no hold keeps at this
/// moment. Returns `None` if there are fewer.
///
/// The statement counts by age whether there are enough, which is cheap where most events are young. Mostly the oldest
/// events are also the first ones, without a gap, and the same index says so; otherwise a second statement finds them
/// by position. Both read in the order of an index, because sorting is off for the rest of the caller's transaction:
/// without statistics, the planner may expect few rows, and would read and sort every old event to find the first.
pub async fn eligible_batch(
    transaction: &mut Transaction,
    log_id: i64,
    (raised_at_max, now): (i64, OffsetDateTime),
    batch_size: i64,
) -> Result<Option<PositionRange>, Error> {
    sqlx::raw_sql("SET LOCAL enable_sort = off").execute(&mut **transaction).await?;
    let oldest = sqlx::query(
        "SELECT min(position) AS first_position, max(position) AS last_position,
                count(*) = $3
                AND max(position) - min(position) = $3 - 1
                AND min(position) = (SELECT min(position) FROM events WHERE log_id = $1) AS are_first,
                count(*) + (
                    SELECT count(*) FROM (
                        SELECT FROM events
                        WHERE log_id = $1 AND held_until <= $4 AND raised_at <= $2
                        ORDER BY held_until
                        LIMIT $3
                    ) AS released
                ) >= $3 AS are_enough
         FROM (
             SELECT position FROM events
             WHERE log_id = $1 AND held_until IS NULL AND raised_at <= $2
             ORDER BY raised_at, position
             LIMIT $3
         ) AS oldest",
    )
    .bind(log_id)
    .bind(raised_at_max)
    .bind(batch_size)
    .bind(now)
    .fetch_one(&mut **transaction)
    .await?;
    if !oldest.try_get("are_enough")? {
        return Ok(None);
    }
    if oldest.try_get("are_first")? {
        return Ok(Some(PositionRange::closed(oldest.try_get("first_position")?, oldest.try_get("last_position")?)));
    }
    let row = sqlx::query(
        "SELECT min(position) AS first_position, max(position) AS last_position FROM (
             SELECT position FROM events
             WHERE log_id = $1 AND raised_at <= $2 AND (held_until IS NULL OR held_until <= $4)
             ORDER BY position
             LIMIT $3
         ) AS eligible",
    )
    .bind(log_id)
    .bind(raised_at_max)
    .bind(batch_size)
    .bind(now)
    .fetch_one(&mut **transaction)
    .await?;
    let range: (Option<i64>, Option<i64>) = (row.try_get("first_position")?, row.try_get("last_position")?);
    Ok(range.0.zip(range.1).map(|(first, last)| PositionRange::closed(first, last)))
}

/// Deletes the hot events at these positions, and returns how many there were.
pub async fn delete(connection: &mut Connection, log_id: i64, positions: &PositionSet) -> Result<u64, Error> {
    let mut ranges = positions.ranges();
    if let (Some(PositionRange { start, end }), None) = (ranges.next(), ranges.next()) {
        let deleted = sqlx::query("DELETE FROM events WHERE log_id = $1 AND position >= $2 AND position < $3")
            .bind(log_id)
            .bind(start)
            .bind(end)
            .execute(connection)
            .await?;
        return Ok(deleted.rows_affected());
    }
    // A join with many ranges can become a scan of the table for each of them.
    let positions: Vec<i64> = positions.ranges().flat_map(|range| range.start..range.end).collect();
    let mut count = 0;
    for positions in positions.chunks(POSITIONS_AT_ONCE) {
        let deleted = sqlx::query("DELETE FROM events WHERE log_id = $1 AND position = ANY($2)")
            .bind(log_id)
            .bind(positions)
            .execute(&mut *connection)
            .await?;
        count += deleted.rows_affected();
    }
    Ok(count)
}
