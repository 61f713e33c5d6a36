//! The sums of merges: the positions that the archives of a merge reach over, and what they hold together, so that a
//! reader passes over many archives at once. When an archive leaves its merge, the merge loses its sums
//! ([`super::delete`]), and readers pass over its archives one by one from then on.

use uuid::Uuid;

use crate::database::{Connection, Error};
use crate::event::PositionRange;

/// The positions of one or more archives, and the number of their events and of those that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Sum {
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    pub matching: i64,
}

impl Sum {
    pub fn positions(&self) -> PositionRange {
        PositionRange::closed(self.first_position, self.last_position)
    }
}

/// Returns the sums that together cover all archives of a log, in the order of their first positions: those of merges,
/// and those of archives in merges without sums. Matching events are of these types, or of all.
pub async fn all(connection: &mut Connection, log_id: i64, types: Option<&[String]>) -> Result<Vec<Sum>, Error> {
    Ok(sqlx::query_as(
        "SELECT first_position, last_position, count, matching
         FROM (
             SELECT first_position, last_position, types, type_counts
             FROM lookups
             WHERE log_id = $1 AND first_position IS NOT NULL
             UNION ALL
             SELECT archives.first_position, archives.last_position, archives.types, archives.type_counts
             FROM lookups JOIN archives ON archives.log_id = $1 AND archives.id = ANY(archive_ids)
             WHERE lookups.log_id = $1 AND lookups.first_position IS NULL
         ) AS parts
         CROSS JOIN LATERAL (
             SELECT coalesce(sum(held.count), 0)::bigint AS count,
                    coalesce(sum(held.count) FILTER (WHERE $2::text[] IS NULL OR type = ANY($2)), 0)::bigint AS matching
             FROM unnest(types, type_counts) AS held (type, count)
         ) AS counted
         ORDER BY first_position",
    )
    .bind(log_id)
    .bind(types)
    .fetch_all(connection)
    .await?)
}

/// Writes the right sums of merges. Archives stay as they are meanwhile, because the log's row is locked.
pub async fn sum_up(connection: &mut Connection, log_id: i64, ids: &[Uuid]) -> Result<(), Error> {
    sqlx::query(
        "UPDATE lookups
         SET first_position = sums.first_position, last_position = sums.last_position, types = sums.types,
             type_counts = sums.type_counts
         FROM lookup_sums AS sums
         WHERE lookups.log_id = $1 AND lookups.id = ANY($2) AND sums.log_id = $1 AND sums.id = lookups.id",
    )
    .bind(log_id)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the merges whose sums are not right.
pub async fn wrong(connection: &mut Connection, log_id: i64) -> Result<Vec<Uuid>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT lookups.id
         FROM lookups JOIN lookup_sums AS sums ON sums.log_id = lookups.log_id AND sums.id = lookups.id
         WHERE lookups.log_id = $1 AND lookups.first_position IS NOT NULL
           AND (lookups.first_position, lookups.last_position, lookups.types, lookups.type_counts)
               IS DISTINCT FROM (sums.first_position, sums.last_position, sums.types, sums.type_counts)
         ORDER BY lookups.id",
    )
    .bind(log_id)
    .fetch_all(connection)
    .await?)
}
