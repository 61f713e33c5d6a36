//! The turns of the scrub: a turn keeps other replicas away from an archive for a while. The turn of a process that
//! died passes to another one after that.

use time::OffsetDateTime;

use crate::database::{ArchiveKey, Connection, Error};

/// Begins the caller's turn: picks the archive whose last scrub is the longest ago, if that was before
/// `scrubbed_before`. It passes over archives whose turn somebody began later than `begun_before`.
pub async fn begin(
    connection: &mut Connection,
    scrubbed_before: OffsetDateTime,
    begun_before: OffsetDateTime,
) -> Result<Option<ArchiveKey>, Error> {
    Ok(sqlx::query_as(
        "UPDATE archives SET scrub_begun_at = clock_timestamp()
         WHERE (log_id, id) = (
             SELECT log_id, id FROM archives
             WHERE (scrubbed_at IS NULL OR scrubbed_at < $1) AND (scrub_begun_at IS NULL OR scrub_begun_at < $2)
             ORDER BY scrubbed_at NULLS FIRST, log_id, id
             LIMIT 1
             FOR UPDATE SKIP LOCKED
         )
         RETURNING log_id, id AS archive_id",
    )
    .bind(scrubbed_before)
    .bind(begun_before)
    .fetch_optional(connection)
    .await?)
}

/// Ends a turn. It counts as a scrub if the archive was read; otherwise the archive is due again.
pub async fn end(connection: &mut Connection, key: ArchiveKey, is_read: bool) -> Result<(), Error> {
    sqlx::query(
        "UPDATE archives
         SET scrub_begun_at = NULL, scrubbed_at = CASE WHEN $3 THEN clock_timestamp() ELSE scrubbed_at END
         WHERE log_id = $1 AND id = $2",
    )
    .bind(key.log_id)
    .bind(key.archive_id)
    .bind(is_read)
    .execute(connection)
    .await?;
    Ok(())
}
