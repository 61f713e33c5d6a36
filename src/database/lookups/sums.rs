//! What the archives of a merge reach over and hold together, so that many are passed over at once. An archive that
//! leaves takes it along ([`super::delete_lookups`]): its merge is passed over archive by archive from then on.

use uuid::Uuid;

use crate::database::{Connection, Error};
use crate::event::PositionRange;

/// What reaches from a position to another one, and how many events it holds, and how many that match.
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

/// All archives of a topic, and what they hold of these types or of all, in the order of the first positions: merges, and
/// archives that no merge has sums of.
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

/// Makes the sums of merges what they have to be. Archives stay as they are meanwhile: the topic is locked.
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

/// Merges whose sums are not what they have to be.
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
