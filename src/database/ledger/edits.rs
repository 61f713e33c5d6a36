//! The ledger of edits, and the pending edits. One transaction lists an edit and makes its change or lays it over, so
//! the ledger lists no edit that did not happen. It holds no values.

use std::collections::HashMap;

use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::{ArchiveKey, Connection, Error};
use crate::event::{Change, Edits, Invalid, PositionRange};

/// A line of the ledger. It never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Edit {
    pub id: Uuid,
    pub log_id: i64,
    /// The number of the edit among the edits of its log.
    pub sequence: i64,
    #[sqlx(try_from = "String")]
    pub kind: EditKind,
    /// An event's id, a GDPR id, or the old name of a type.
    pub subject: String,
    /// `None` where the edit may change any number of events.
    pub position: Option<i64>,
    /// The archive that holds what the edit changes; `None` where that is hot.
    pub archive_id: Option<Uuid>,
    /// JSON pointers into the payload, or the new name of a type.
    pub changed: Vec<String>,
    pub missing: Vec<String>,
    pub actor: String,
    pub reason: String,
    pub ticket: String,
    pub accepted_at: OffsetDateTime,
    /// The time when the old value was replaced where it is kept.
    pub applied_at: Option<OffsetDateTime>,
    /// The time when nothing was left that holds the old value.
    pub purged_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditKind {
    Patch,
    Introduce,
    Invalidate,
    Rename,
}

impl EditKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EditKind::Patch => "patch",
            EditKind::Introduce => "introduce",
            EditKind::Invalidate => "invalidate",
            EditKind::Rename => "rename",
        }
    }
}

impl TryFrom<String> for EditKind {
    type Error = Invalid;

    fn try_from(text: String) -> Result<EditKind, Invalid> {
        [EditKind::Patch, EditKind::Introduce, EditKind::Invalidate, EditKind::Rename]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Invalid(format!("an edit has the unknown kind {text:?}")))
    }
}

/// A change of some events of an archive that the archive's object does not hold yet.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct PendingEdit {
    pub archive_id: Uuid,
    pub first_position: i64,
    pub last_position: i64,
    pub sequence: i64,
    #[sqlx(try_from = "String")]
    pub change: Change,
}

impl TryFrom<String> for Change {
    type Error = Invalid;

    fn try_from(json: String) -> Result<Change, Invalid> {
        Change::from_json(&json)
    }
}

macro_rules! select_edits {
    ($rest:literal) => {
        concat!(
            "SELECT id, log_id, sequence, kind, subject, position, archive_id, changed, missing, actor, reason, ",
            "ticket, accepted_at, applied_at, purged_at FROM edits ",
            $rest
        )
    };
}

/// Returns whether an event was changed after the edit of this sequence, or may have been.
pub async fn edited_since(
    connection: &mut Connection,
    (log_id, position): (i64, i64),
    sequence: i64,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM edits
             WHERE log_id = $1 AND sequence > $3 AND (position = $2 OR position IS NULL)
         )",
    )
    .bind(log_id)
    .bind(position)
    .bind(sequence)
    .fetch_one(connection)
    .await?)
}

/// Returns the edits of the event at each of these positions, with the renames of its log.
pub async fn of_event(
    connection: &mut Connection,
    log_id: i64,
    positions: &[i64],
) -> Result<HashMap<i64, Edits>, Error> {
    let patched: Vec<(i64, String)> = sqlx::query_as(
        "SELECT DISTINCT position, unnest(changed) AS pointer FROM edits
         WHERE log_id = $1 AND position = ANY($2) AND kind = 'patch'
         ORDER BY position, pointer",
    )
    .bind(log_id)
    .bind(positions)
    .fetch_all(&mut *connection)
    .await?;
    let renames = renames(connection, log_id).await?;
    let unpatched = |position: &i64| (*position, Edits { patched: Vec::new(), renames: renames.clone() });
    let mut edits: HashMap<i64, Edits> = positions.iter().map(unpatched).collect();
    for (position, pointer) in patched {
        edits.entry(position).or_default().patched.push(pointer);
    }
    Ok(edits)
}

/// Returns the renames of a log, each as the old name and the new one, in their order.
pub async fn renames(connection: &mut Connection, log_id: i64) -> Result<Vec<(String, String)>, Error> {
    Ok(sqlx::query_as(
        "SELECT DISTINCT sequence, subject, changed[1] FROM edits
         WHERE log_id = $1 AND kind = 'rename'
         ORDER BY sequence",
    )
    .bind(log_id)
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|(_, old_type, new_type): (i64, String, String)| (old_type, new_type))
    .collect())
}

/// Returns the archives that an invalidation of this GDPR id was laid over before.
pub async fn archives_invalidated(connection: &mut Connection, log_id: i64, gdpr_id: &str) -> Result<Vec<Uuid>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT archive_id FROM edits
         WHERE log_id = $1 AND kind = 'invalidate' AND subject = $2 AND archive_id IS NOT NULL
         ORDER BY sequence",
    )
    .bind(log_id)
    .bind(gdpr_id)
    .fetch_all(connection)
    .await?)
}

/// Returns `None` if no edit has this id.
pub async fn find(connection: &mut Connection, id: Uuid) -> Result<Option<Edit>, Error> {
    Ok(sqlx::query_as(select_edits!("WHERE id = $1")).bind(id).fetch_optional(connection).await?)
}

pub async fn insert(connection: &mut Connection, edit: &Edit) -> Result<(), Error> {
    let Edit {
        id,
        log_id,
        sequence,
        kind,
        subject,
        position,
        archive_id,
        changed,
        missing,
        actor,
        reason,
        ticket,
        accepted_at,
        applied_at,
        purged_at,
    } = edit;
    sqlx::query(
        "INSERT INTO edits (id, log_id, sequence, kind, subject, position, archive_id, changed, missing, actor,
                            reason, ticket, accepted_at, applied_at, purged_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(id)
    .bind(log_id)
    .bind(sequence)
    .bind(kind.as_str())
    .bind(subject)
    .bind(position)
    .bind(archive_id)
    .bind(changed)
    .bind(missing)
    .bind(actor)
    .bind(reason)
    .bind(ticket)
    .bind(accepted_at)
    .bind(applied_at)
    .bind(purged_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Lays a change over a range of positions of the edit's archive.
pub async fn insert_pending(
    connection: &mut Connection,
    edit: &Edit,
    range: PositionRange,
    change: &Change,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO pending_edits (log_id, first_position, last_position, sequence, edit_id, archive_id, change)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(edit.log_id)
    .bind(range.start)
    .bind(range.last())
    .bind(edit.sequence)
    .bind(edit.id)
    .bind(edit.archive_id)
    .bind(change.to_json())
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the pending edits of a range of positions, in the order in which they have to be applied.
pub async fn pending(
    connection: &mut Connection,
    log_id: i64,
    range: PositionRange,
) -> Result<Vec<PendingEdit>, Error> {
    Ok(sqlx::query_as(
        "SELECT archive_id, first_position, last_position, sequence, change FROM pending_edits
         WHERE log_id = $1 AND last_position >= $2 AND first_position < $3
         ORDER BY sequence, first_position",
    )
    .bind(log_id)
    .bind(range.start)
    .bind(range.end)
    .fetch_all(connection)
    .await?)
}

/// Returns the pending edits of an archive, in the order in which they have to be applied.
pub async fn pending_of_archive(
    connection: &mut Connection,
    log_id: i64,
    archive_id: Uuid,
) -> Result<Vec<PendingEdit>, Error> {
    Ok(sqlx::query_as(
        "SELECT archive_id, first_position, last_position, sequence, change FROM pending_edits
         WHERE log_id = $1 AND archive_id = $2
         ORDER BY sequence, first_position",
    )
    .bind(log_id)
    .bind(archive_id)
    .fetch_all(connection)
    .await?)
}

/// Returns the archives that have pending edits.
pub async fn archives_with_pending(connection: &mut Connection) -> Result<Vec<ArchiveKey>, Error> {
    let statement =
        "SELECT log_id, archive_id FROM pending_edits GROUP BY log_id, archive_id ORDER BY log_id, archive_id";
    Ok(sqlx::query_as(statement).fetch_all(connection).await?)
}

/// Removes the pending edits that a rewrite put into the object, up to the sequence that it saw, and marks them as
/// applied in the ledger.
pub async fn settle(
    connection: &mut Connection,
    log_id: i64,
    archive_id: Uuid,
    sequence_max: i64,
) -> Result<(), Error> {
    sqlx::query(
        "WITH settled AS (
             DELETE FROM pending_edits WHERE log_id = $1 AND archive_id = $2 AND sequence <= $3 RETURNING edit_id
         )
         UPDATE edits SET applied_at = now() FROM settled WHERE edits.id = settled.edit_id",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(sequence_max)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the archives whose applied edits may have left old values in noncurrent versions of the object, each with
/// the newest sequence of those edits. It leaves out archives with an intent: settling the intent purges the object.
pub async fn unpurged_archives(connection: &mut Connection) -> Result<Vec<(ArchiveKey, i64)>, Error> {
    let rows = sqlx::query(
        "SELECT log_id, archive_id, max(sequence) AS sequence FROM edits
         WHERE purged_at IS NULL AND applied_at IS NOT NULL AND archive_id IS NOT NULL
           AND NOT EXISTS (
               SELECT FROM intents
               WHERE intents.log_id = edits.log_id AND intents.archive_id = edits.archive_id
           )
         GROUP BY log_id, archive_id
         ORDER BY log_id, archive_id",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((ArchiveKey::from_row(row)?, row.try_get("sequence")?))).collect()
}

/// Marks the applied edits of an archive as purged, up to a sequence.
pub async fn mark_purged(
    connection: &mut Connection,
    log_id: i64,
    archive_id: Uuid,
    sequence_max: i64,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE edits SET purged_at = now()
         WHERE log_id = $1 AND archive_id = $2 AND sequence <= $3 AND applied_at IS NOT NULL AND purged_at IS NULL",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(sequence_max)
    .execute(connection)
    .await?;
    Ok(())
}

/// Marks edits of hot events as purged, unless an object is on its way that was begun before the edit.
pub async fn mark_hot_purged(connection: &mut Connection) -> Result<(), Error> {
    sqlx::query(
        "UPDATE edits SET purged_at = now()
         WHERE archive_id IS NULL AND purged_at IS NULL
           AND NOT EXISTS (
               SELECT FROM intents WHERE intents.log_id = edits.log_id AND edit_sequence < edits.sequence
           )",
    )
    .execute(connection)
    .await?;
    Ok(())
}
