//! The last archive runs. A run is written down once it is over, so a process that dies leaves no trace of its run.

use sqlx::FromRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::{Connection, Error};

/// The results of one archive run.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ArchiveRun {
    pub id: Uuid,
    pub started_at: OffsetDateTime,
    pub finished_at: OffsetDateTime,
    pub archives: i64,
    pub events: i64,
    pub error: Option<String>,
}

/// The number of runs that are kept.
const KEPT: i64 = 100;

/// Adds a run, and deletes the oldest runs.
pub async fn insert(connection: &mut Connection, run: &ArchiveRun) -> Result<(), Error> {
    let ArchiveRun { id, started_at, finished_at, archives, events, error } = run;
    sqlx::query(
        "INSERT INTO archive_runs (id, started_at, finished_at, archives, events, error)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id)
    .bind(started_at)
    .bind(finished_at)
    .bind(archives)
    .bind(events)
    .bind(error)
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM archive_runs WHERE id IN (SELECT id FROM archive_runs ORDER BY id DESC OFFSET $1)")
        .bind(KEPT)
        .execute(connection)
        .await?;
    Ok(())
}

pub async fn last(connection: &mut Connection) -> Result<Option<ArchiveRun>, Error> {
    Ok(sqlx::query_as(
        "SELECT id, started_at, finished_at, archives, events, error FROM archive_runs ORDER BY id DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await?)
}
