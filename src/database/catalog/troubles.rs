//! Troubles: what is wrong with single objects, and when each is due to be tried again. A trouble stays until somebody
//! finds it mended.

use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::{ArchiveKey, Connection, Error};
use crate::event::{Invalid, Log};

/// The operation that fails on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TroubleKind {
    /// S3 refuses to give the object, or the object is not what was written.
    Read,
    /// The object, or what it superseded, cannot be deleted.
    Delete,
    /// The object bears the name of an archive that the database does not know, and cannot be taken over.
    Recover,
}

/// The trouble of one object.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Trouble {
    #[sqlx(flatten)]
    pub log: Log,
    pub archive_id: Uuid,
    #[sqlx(try_from = "String")]
    pub kind: TroubleKind,
    pub why: String,
    pub since: OffsetDateTime,
    pub attempts: i64,
}

impl TroubleKind {
    pub fn as_str(self) -> &'static str {
        match self {
            TroubleKind::Read => "read",
            TroubleKind::Delete => "delete",
            TroubleKind::Recover => "recover",
        }
    }
}

impl TryFrom<String> for TroubleKind {
    type Error = Invalid;

    fn try_from(text: String) -> Result<TroubleKind, Invalid> {
        [TroubleKind::Read, TroubleKind::Delete, TroubleKind::Recover]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Invalid(format!("a trouble has the unknown kind {text:?}")))
    }
}

/// Writes down that an operation failed. It is due again after a minute, and each further failure doubles the wait, up
/// to six hours. Returns true if the trouble is new.
pub async fn insert(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    kind: TroubleKind,
    why: &str,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "INSERT INTO troubles (log_id, archive_id, kind, why, retry_at)
         VALUES ($1, $2, $3, $4, clock_timestamp() + interval '1 minute')
         ON CONFLICT ON CONSTRAINT troubles_pkey DO UPDATE
         SET why = excluded.why, attempts = troubles.attempts + 1,
             retry_at = clock_timestamp()
                        + least(interval '1 minute' * power(2, least(troubles.attempts, 20)), interval '6 hours')
         RETURNING attempts = 1",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(kind.as_str())
    .bind(why)
    .fetch_one(connection)
    .await?)
}

/// Returns false if the archive had no trouble of these kinds.
pub async fn delete(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    kinds: &[TroubleKind],
) -> Result<bool, Error> {
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    let deleted = sqlx::query("DELETE FROM troubles WHERE log_id = $1 AND archive_id = $2 AND kind = ANY($3)")
        .bind(log_id)
        .bind(archive_id)
        .bind(kinds)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected() > 0)
}

pub async fn has_any(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    kind: TroubleKind,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM troubles WHERE log_id = $1 AND archive_id = $2 AND kind = $3)")
        .bind(log_id)
        .bind(archive_id)
        .bind(kind.as_str())
        .fetch_one(connection)
        .await?)
}

/// Returns the archives that are not due to be tried again yet, each with the operation that failed.
pub async fn put_off(connection: &mut Connection) -> Result<Vec<(ArchiveKey, TroubleKind)>, Error> {
    let rows = sqlx::query(
        "SELECT log_id, archive_id, kind = 'read' AS is_read FROM troubles
         WHERE kind IN ('read', 'delete') AND retry_at > clock_timestamp()
         ORDER BY log_id, archive_id, kind",
    )
    .fetch_all(connection)
    .await?;
    let kind = |is_read| if is_read { TroubleKind::Read } else { TroubleKind::Delete };
    let put_off = rows.iter().map(|row| Ok((ArchiveKey::from_row(row)?, kind(row.try_get("is_read")?))));
    put_off.collect()
}

/// Returns the oldest troubles.
pub async fn all(connection: &mut Connection, limit: i64) -> Result<Vec<Trouble>, Error> {
    Ok(sqlx::query_as(
        "SELECT tenant, topic, archive_id, kind, why, since, attempts
         FROM troubles JOIN logs ON logs.id = log_id
         ORDER BY since, archive_id, kind
         LIMIT $1",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// Counts the troubles of each kind.
pub async fn counts(connection: &mut Connection) -> Result<[(TroubleKind, i64); 3], Error> {
    let (read, delete, recover) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE kind = 'read'), count(*) FILTER (WHERE kind = 'delete'),
                count(*) FILTER (WHERE kind = 'recover')
         FROM troubles",
    )
    .fetch_one(connection)
    .await?;
    Ok([(TroubleKind::Read, read), (TroubleKind::Delete, delete), (TroubleKind::Recover, recover)])
}

/// Deletes the troubles of archives that do not exist any more.
pub async fn delete_past(connection: &mut Connection) -> Result<(), Error> {
    sqlx::query(
        "DELETE FROM troubles
         WHERE kind IN ('read', 'delete')
           AND NOT EXISTS (
               SELECT FROM archives WHERE archives.log_id = troubles.log_id AND archives.id = troubles.archive_id
           )
           AND NOT EXISTS (
               SELECT FROM intents
               WHERE intents.log_id = troubles.log_id AND intents.archive_id = troubles.archive_id
           )",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the troubles of the last recovery; the next one finds them anew.
pub async fn delete_of_recovery(connection: &mut Connection) -> Result<(), Error> {
    sqlx::query("DELETE FROM troubles WHERE kind = 'recover'").execute(connection).await?;
    Ok(())
}
