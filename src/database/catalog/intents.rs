//! Intents: each names an object before the object is written, so a writer that dies leaves nothing in the bucket that
//! no row knows of.

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::database::catalog::archives::Archive;
use crate::database::catalog::leases::Lease;
use crate::database::{ArchiveKey, Connection, Error};

/// An object that a writer set out to write, and that no transaction has made live yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    pub log_id: i64,
    pub archive_id: Uuid,
    pub generation: i64,
    pub write_id: Uuid,
    /// The object holds pending edits up to this sequence.
    pub edit_sequence: i64,
    pub uploaded: Option<UploadedFacts>,
}

/// The facts that are known once every byte is uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedFacts {
    pub digest: Vec<u8>,
    pub json_bytes: i64,
    pub object_bytes: i64,
}

impl Intent {
    /// An intent to write the first generation of a new archive.
    pub fn of_new_archive(log_id: i64, edit_sequence: i64) -> Intent {
        let (archive_id, write_id) = (Uuid::now_v7(), Uuid::new_v4());
        Intent { log_id, archive_id, generation: 1, write_id, edit_sequence, uploaded: None }
    }

    /// An intent to replace an archive's object by its next generation.
    pub fn of_rewrite(archive: &Archive, edit_sequence: i64) -> Intent {
        let generation = archive.generation + 1;
        Intent { generation, write_id: Uuid::new_v4(), ..Intent::of_orphan(archive, edit_sequence) }
    }

    /// An intent for the object of an archive that leaves the catalog.
    pub fn of_orphan(archive: &Archive, edit_sequence: i64) -> Intent {
        let Archive { log_id, id: archive_id, generation, write_id, .. } = *archive;
        Intent { log_id, archive_id, generation, write_id, edit_sequence, uploaded: None }
    }
}

macro_rules! select_intents {
    ($rest:literal) => {
        concat!(
            "SELECT log_id, archive_id, generation, write_id, edit_sequence, digest, json_bytes, object_bytes ",
            "FROM intents ",
            $rest
        )
    };
}

fn from_row(row: &PgRow) -> Result<Intent, Error> {
    let digest: Option<Vec<u8>> = row.try_get("digest")?;
    let bytes: (Option<i64>, Option<i64>) = (row.try_get("json_bytes")?, row.try_get("object_bytes")?);
    let uploaded = match (digest, bytes) {
        (Some(digest), (Some(json_bytes), Some(object_bytes))) => {
            Some(UploadedFacts { digest, json_bytes, object_bytes })
        }
        _ => None,
    };
    Ok(Intent {
        log_id: row.try_get("log_id")?,
        archive_id: row.try_get("archive_id")?,
        generation: row.try_get("generation")?,
        write_id: row.try_get("write_id")?,
        edit_sequence: row.try_get("edit_sequence")?,
        uploaded,
    })
}

pub async fn insert(connection: &mut Connection, intent: &Intent, lease: &Lease) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO intents (log_id, archive_id, generation, write_id, edit_sequence, epoch)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(intent.log_id)
    .bind(intent.archive_id)
    .bind(intent.generation)
    .bind(intent.write_id)
    .bind(intent.edit_sequence)
    .bind(lease.epoch)
    .execute(connection)
    .await?;
    Ok(())
}

/// Records what was uploaded. Returns false if somebody else has settled the intent, or is about to: the next holder of
/// the lease aborts every upload, and none may be completed after that.
pub async fn complete(connection: &mut Connection, intent: &Intent, uploaded: &UploadedFacts) -> Result<bool, Error> {
    let UploadedFacts { digest, json_bytes, object_bytes } = uploaded;
    let completed = sqlx::query(
        "UPDATE intents SET digest = $4, json_bytes = $5, object_bytes = $6
         FROM logs
         WHERE log_id = $1 AND archive_id = $2 AND write_id = $3 AND logs.id = $1 AND lease_epoch = epoch",
    )
    .bind(intent.log_id)
    .bind(intent.archive_id)
    .bind(intent.write_id)
    .bind(digest)
    .bind(json_bytes)
    .bind(object_bytes)
    .execute(connection)
    .await?;
    Ok(completed.rows_affected() == 1)
}

/// Keeps the intent from being settled until the transaction ends. Returns false if the intent is gone.
pub async fn hold(connection: &mut Connection, intent: &Intent) -> Result<bool, Error> {
    let held = sqlx::query("SELECT FROM intents WHERE log_id = $1 AND archive_id = $2 AND write_id = $3 FOR KEY SHARE")
        .bind(intent.log_id)
        .bind(intent.archive_id)
        .bind(intent.write_id)
        .fetch_optional(connection)
        .await?;
    Ok(held.is_some())
}

/// Returns false if the intent was gone already.
pub async fn delete(connection: &mut Connection, intent: &Intent) -> Result<bool, Error> {
    let deleted = sqlx::query("DELETE FROM intents WHERE log_id = $1 AND archive_id = $2 AND write_id = $3")
        .bind(intent.log_id)
        .bind(intent.archive_id)
        .bind(intent.write_id)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Deletes all intents for an archive. Their writers find out when they try to finish.
pub async fn delete_of_archive(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM intents WHERE log_id = $1 AND archive_id = $2")
        .bind(log_id)
        .bind(archive_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the intents of a log, oldest first.
pub async fn of_log(connection: &mut Connection, log_id: i64) -> Result<Vec<Intent>, Error> {
    let rows = sqlx::query(select_intents!("WHERE log_id = $1 ORDER BY intended_at, archive_id"))
        .bind(log_id)
        .fetch_all(connection)
        .await?;
    rows.iter().map(from_row).collect()
}

pub async fn has_any(connection: &mut Connection, log_id: i64) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM intents WHERE log_id = $1)")
        .bind(log_id)
        .fetch_one(connection)
        .await?)
}

/// Returns whether an intent names this archive.
pub async fn is_intended(connection: &mut Connection, archive_id: Uuid) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM intents WHERE archive_id = $1)")
        .bind(archive_id)
        .fetch_one(connection)
        .await?)
}

/// Returns whether any log has an object on its way, or an old value that is still somewhere in the bucket.
pub async fn has_unfinished(connection: &mut Connection) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM intents) OR EXISTS (SELECT FROM edits WHERE purged_at IS NULL)")
        .fetch_one(connection)
        .await?)
}

/// Returns the intent to rewrite an archive, if there is one.
pub async fn of_archive(connection: &mut Connection, log_id: i64, archive_id: Uuid) -> Result<Option<Intent>, Error> {
    let row = sqlx::query(select_intents!("WHERE log_id = $1 AND archive_id = $2 ORDER BY generation DESC LIMIT 1"))
        .bind(log_id)
        .bind(archive_id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(from_row).transpose()
}

/// Returns the logs with intents whose writer has no lease any more: it expired, or somebody else has taken it.
pub async fn logs_with_stale(connection: &mut Connection) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT intents.log_id
         FROM intents JOIN logs ON logs.id = intents.log_id
         WHERE logs.lease_holder IS NULL OR logs.lease_expires_at < clock_timestamp()
            OR logs.lease_epoch <> intents.epoch
         ORDER BY intents.log_id",
    )
    .fetch_all(connection)
    .await?)
}
