//! The statements that make a database know its bucket again. Each takes part in a transaction of the caller.

use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::catalog::archives::{self, Archive};
use crate::database::catalog::intents;
use crate::database::ledger::{edits, introduced};
use crate::database::{ArchiveKey, Connection, Error, lookups};
use crate::event::Log;

/// An object that the database has a reason to expect.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct KnownObject {
    #[sqlx(flatten)]
    pub log: Log,
    pub archive_id: Uuid,
    pub generation: i64,
    pub write_id: Uuid,
    /// `None` for an intent, because its object is not written yet.
    pub etag: Option<String>,
}

/// Selects every archive, and every intent except one: an intent to rewrite an archive for which nothing was recorded
/// yet, because no object bears its write-id. The intent for an archive that was restored is about the object as it
/// was, whatever its generation.
macro_rules! select_known_objects {
    ($where:literal) => {
        concat!(
            "SELECT tenant, topic, known.* FROM logs JOIN (
                 SELECT log_id, id AS archive_id, generation, write_id, etag FROM archives
                 UNION ALL
                 SELECT log_id, archive_id, generation, write_id, NULL FROM intents
                 WHERE digest IS NOT NULL OR NOT EXISTS (
                     SELECT FROM archives WHERE archives.log_id = intents.log_id AND id = archive_id
                 )
             ) AS known ON log_id = id ",
            $where
        )
    };
}

pub async fn known_objects(connection: &mut Connection) -> Result<Vec<KnownObject>, Error> {
    Ok(sqlx::query_as(select_known_objects!("ORDER BY log_id, archive_id, generation")).fetch_all(connection).await?)
}

pub async fn known_objects_of(
    connection: &mut Connection,
    log_id: i64,
    archive_id: Uuid,
) -> Result<Vec<KnownObject>, Error> {
    Ok(sqlx::query_as(select_known_objects!("WHERE log_id = $1 AND archive_id = $2 ORDER BY generation"))
        .bind(log_id)
        .bind(archive_id)
        .fetch_all(connection)
        .await?)
}

/// Gives this database the id of another deployment. Returns false if the database holds events, or has held some.
pub async fn adopt_deployment(connection: &mut Connection, id: Uuid) -> Result<bool, Error> {
    let adopted = sqlx::query("UPDATE deployment SET id = $1 WHERE NOT EXISTS (SELECT FROM logs)")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(adopted.rows_affected() == 1)
}

/// Returns whether a hot event was changed since then, or may have been. A change counts also if the event was
/// archived at the time, and restored later.
pub async fn hot_edited_since(
    connection: &mut Connection,
    (log_id, position): (i64, i64),
    since: OffsetDateTime,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM edits
             WHERE log_id = $1 AND (position = $2 OR position IS NULL) AND accepted_at >= $3
         )",
    )
    .bind(log_id)
    .bind(position)
    .bind(since)
    .fetch_one(connection)
    .await?)
}

/// Returns whether an archive has a pending edit that was made since then.
pub async fn has_pending_since(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    since: OffsetDateTime,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM pending_edits JOIN edits ON edits.id = edit_id
             WHERE pending_edits.log_id = $1 AND pending_edits.archive_id = $2 AND accepted_at >= $3
         )",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(since)
    .fetch_one(connection)
    .await?)
}

/// Adds an archive that was found, with `found_count` events that were nowhere until now. The head moves to the
/// archive's last position, and positions between that have no event count as deleted. Returns the number of deleted
/// positions; a negative one means that the caller's numbers make no sense.
pub async fn add_found(
    connection: &mut Connection,
    log_id: i64,
    last_position: i64,
    found_count: i64,
) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(
        "UPDATE logs
         SET head_position = greatest(head_position, $2),
             deleted_count = deleted_count + greatest(head_position, $2) - head_position - $3,
             hot_magnitude = magnitude(head_position - archived_count - deleted_count + $3)
         WHERE id = $1
         RETURNING deleted_count",
    )
    .bind(log_id)
    .bind(last_position)
    .bind(found_count)
    .fetch_one(connection)
    .await?)
}

/// Makes the catalog's row of an archive say what its object turned out to be. It deletes the members, lookup pages and
/// intents of the old row, and the caller has to write them anew.
pub async fn replace_archive(connection: &mut Connection, archive: &Archive) -> Result<(), Error> {
    delete_what_is_known(connection, ArchiveKey::new(archive.log_id, archive.id)).await?;
    archives::insert(connection, archive).await
}

/// Removes an archive from the catalog because its events are elsewhere, or nowhere. Its pending edits count as done.
pub async fn forget_archive(connection: &mut Connection, key: ArchiveKey) -> Result<(), Error> {
    delete_what_is_known(connection, key).await?;
    lookups::delete(connection, key).await?;
    introduced::delete(connection, key).await?;
    let ArchiveKey { log_id, archive_id } = key;
    edits::settle(connection, log_id, archive_id, i64::MAX).await
}

async fn delete_what_is_known(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
) -> Result<(), Error> {
    for statement in [
        "DELETE FROM archives WHERE log_id = $1 AND id = $2",
        "DELETE FROM members WHERE log_id = $1 AND archive_id = $2",
    ] {
        sqlx::query(statement).bind(log_id).bind(archive_id).execute(&mut *connection).await?;
    }
    intents::delete_of_archive(connection, ArchiveKey::new(log_id, archive_id)).await
}

/// Records that the same object has another ETag.
pub async fn set_etag(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    etag: &str,
) -> Result<(), Error> {
    sqlx::query("UPDATE archives SET etag = $3 WHERE log_id = $1 AND id = $2")
        .bind(log_id)
        .bind(archive_id)
        .bind(etag)
        .execute(connection)
        .await?;
    Ok(())
}
