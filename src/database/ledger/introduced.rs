//! GDPR ids of fields that became personal after they were archived. No lookup page leads to them.

use std::collections::HashSet;

use sqlx::Row;
use uuid::Uuid;

use crate::database::{ArchiveKey, Connection, Error};

pub async fn insert(
    connection: &mut Connection,
    log_id: i64,
    gdpr_id: &str,
    (archive_id, position): (Uuid, i64),
) -> Result<(), Error> {
    sqlx::query("INSERT INTO introduced_gdpr_ids (log_id, gdpr_id, archive_id, position) VALUES ($1, $2, $3, $4)")
        .bind(log_id)
        .bind(gdpr_id)
        .bind(archive_id)
        .bind(position)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes the GDPR ids of an archive whose events are elsewhere now, and whose ids are known there.
pub async fn delete(connection: &mut Connection, ArchiveKey { log_id, archive_id }: ArchiveKey) -> Result<(), Error> {
    sqlx::query("DELETE FROM introduced_gdpr_ids WHERE log_id = $1 AND archive_id = $2")
        .bind(log_id)
        .bind(archive_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the GDPR ids that were introduced on fields of an archive.
pub async fn of_archive(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
) -> Result<HashSet<String>, Error> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT gdpr_id FROM introduced_gdpr_ids WHERE log_id = $1 AND archive_id = $2 ORDER BY gdpr_id",
    )
    .bind(log_id)
    .bind(archive_id)
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().collect())
}

/// Returns the archive and the position of the field that this GDPR id was introduced on.
pub async fn find(connection: &mut Connection, log_id: i64, gdpr_id: &str) -> Result<Option<(Uuid, i64)>, Error> {
    let row = sqlx::query("SELECT archive_id, position FROM introduced_gdpr_ids WHERE log_id = $1 AND gdpr_id = $2")
        .bind(log_id)
        .bind(gdpr_id)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok((row.try_get("archive_id")?, row.try_get("position")?))).transpose()
}
