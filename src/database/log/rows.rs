//! The rows of logs: names, head, counts and counters. A transaction that locks a log's row keeps every other writer of
//! the log away until it ends.

use sqlx::FromRow;

use crate::database::lookups::sums;
use crate::database::{Amounts, Connection, Error};
use crate::event::Log;

/// A log's row: one tenant and topic.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct LogRow {
    pub id: i64,
    #[sqlx(flatten)]
    pub log: Log,
    pub head_position: i64,
    pub archived_count: i64,
    /// No archived event has a higher position.
    pub archived_to: i64,
    /// The number of positions whose events were deleted once they had been handled. If it is not zero, positions
    /// have gaps.
    pub deleted_count: i64,
    pub archived_json_bytes: i64,
    pub archived_object_bytes: i64,
    pub edit_counter: i64,
    /// A counter that rises whenever archived events turn out to be elsewhere, or other ones, than the catalog said:
    /// with a restore, a repair or a recovery. While it stays, events only go from rows into archives.
    pub catalog_epoch: i64,
    /// The number of binary digits of the number of hot events. An archiver finds the logs with enough events by it.
    pub hot_magnitude: i32,
}

impl LogRow {
    pub fn hot_count(&self) -> i64 {
        self.head_position - self.archived_count - self.deleted_count
    }
}

macro_rules! select_logs {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, topic, head_position, archived_count, archived_to, deleted_count, ",
            "archived_json_bytes, archived_object_bytes, edit_counter, catalog_epoch, hot_magnitude FROM logs ",
            $rest
        )
    };
}

pub async fn find(connection: &mut Connection, log: &Log) -> Result<Option<LogRow>, Error> {
    Ok(sqlx::query_as(select_logs!("WHERE tenant = $1 AND topic = $2"))
        .bind(log.tenant())
        .bind(log.topic())
        .fetch_optional(connection)
        .await?)
}

pub async fn has_any(connection: &mut Connection) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM logs)").fetch_one(connection).await?)
}

pub async fn by_id(connection: &mut Connection, log_id: i64) -> Result<LogRow, Error> {
    Ok(sqlx::query_as(select_logs!("WHERE id = $1")).bind(log_id).fetch_one(connection).await?)
}

/// Returns all logs, in the order of their names.
pub async fn all(connection: &mut Connection) -> Result<Vec<LogRow>, Error> {
    Ok(sqlx::query_as(select_logs!("ORDER BY tenant, topic")).fetch_all(connection).await?)
}

/// Returns the logs with at least `hot_count_min` hot events, the largest number first.
pub async fn with_hot_events(connection: &mut Connection, hot_count_min: i64) -> Result<Vec<LogRow>, Error> {
    // The magnitude is in an index, and the count is not.
    Ok(sqlx::query_as(select_logs!(
        "WHERE hot_magnitude >= magnitude($1) AND head_position - archived_count - deleted_count >= $1
         ORDER BY head_position - archived_count - deleted_count DESC, id"
    ))
    .bind(hot_count_min)
    .fetch_all(connection)
    .await?)
}

/// Returns the logs of a topic, one for each tenant that has it.
pub async fn named(connection: &mut Connection, topic: &str) -> Result<Vec<LogRow>, Error> {
    Ok(sqlx::query_as(select_logs!("WHERE topic = $1 ORDER BY tenant")).bind(topic).fetch_all(connection).await?)
}

/// Makes the log's row if it does not exist.
pub async fn make(connection: &mut Connection, log: &Log) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO logs (tenant, topic) VALUES ($1, $2) ON CONFLICT ON CONSTRAINT logs_tenant_topic_key DO NOTHING",
    )
    .bind(log.tenant())
    .bind(log.topic())
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks the log's row until the transaction ends. Positions are given, edits are counted and archives become live
/// under this lock.
pub async fn lock(connection: &mut Connection, log: &Log) -> Result<Option<LogRow>, Error> {
    Ok(sqlx::query_as(select_logs!("WHERE tenant = $1 AND topic = $2 FOR UPDATE"))
        .bind(log.tenant())
        .bind(log.topic())
        .fetch_optional(connection)
        .await?)
}

pub async fn set_head(connection: &mut Connection, log_id: i64, head_position: i64) -> Result<(), Error> {
    sqlx::query(
        "UPDATE logs
         SET head_position = $2, hot_magnitude = magnitude($2 - archived_count - deleted_count)
         WHERE id = $1",
    )
    .bind(log_id)
    .bind(head_position)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds the events of a new archive that ends at `last_position`, or the change that a rewrite or a restore made to
/// one.
pub async fn add_archived(
    connection: &mut Connection,
    log_id: i64,
    last_position: i64,
    Amounts { events, json_bytes, object_bytes }: Amounts,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE logs
         SET archived_count = archived_count + $2,
             archived_json_bytes = archived_json_bytes + $3,
             archived_object_bytes = archived_object_bytes + $4,
             archived_to = greatest(archived_to, $5),
             hot_magnitude = magnitude(head_position - archived_count - $2 - deleted_count)
         WHERE id = $1",
    )
    .bind(log_id)
    .bind(events)
    .bind(json_bytes)
    .bind(object_bytes)
    .bind(last_position)
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets the sums to those of the log's archives, whatever they were.
pub async fn recount_archived(connection: &mut Connection, log_id: i64) -> Result<(), Error> {
    sqlx::query(
        "UPDATE logs
         SET archived_count = sums.count,
             archived_json_bytes = sums.json_bytes,
             archived_object_bytes = sums.object_bytes,
             archived_to = sums.last_position,
             catalog_epoch = catalog_epoch + 1,
             hot_magnitude = magnitude(head_position - sums.count - deleted_count)
         FROM (
             SELECT coalesce(sum(count), 0)::bigint AS count, coalesce(sum(json_bytes), 0)::bigint AS json_bytes,
                    coalesce(sum(object_bytes), 0)::bigint AS object_bytes,
                    coalesce(max(last_position), 0) AS last_position
             FROM archives
             WHERE log_id = $1
         ) AS sums
         WHERE id = $1",
    )
    .bind(log_id)
    .execute(&mut *connection)
    .await?;
    let wrong = sums::wrong(connection, log_id).await?;
    sums::sum_up(connection, log_id, &wrong).await
}

/// Adds to the count of events that were deleted because they were consumed.
pub async fn add_deleted(connection: &mut Connection, log_id: i64, count: i64) -> Result<(), Error> {
    sqlx::query(
        "UPDATE logs
         SET deleted_count = deleted_count + $2,
             hot_magnitude = magnitude(head_position - archived_count - deleted_count - $2)
         WHERE id = $1",
    )
    .bind(log_id)
    .bind(count)
    .execute(connection)
    .await?;
    Ok(())
}

/// Raises the catalog epoch: whatever readers know of archived events may not hold any more.
pub async fn raise_catalog_epoch(connection: &mut Connection, log_id: i64) -> Result<(), Error> {
    sqlx::query("UPDATE logs SET catalog_epoch = catalog_epoch + 1 WHERE id = $1")
        .bind(log_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the sequence of the edit that this transaction makes, and locks the log's row from now on. Returns `None` if
/// events were restored since `log_row` was read: an event that was looked for in rows may have been in an archive
/// then.
pub async fn bump_edit_counter(connection: &mut Connection, log_row: &LogRow) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar(
        "UPDATE logs SET edit_counter = edit_counter + 1 WHERE id = $1 AND catalog_epoch = $2 RETURNING edit_counter",
    )
    .bind(log_row.id)
    .bind(log_row.catalog_epoch)
    .fetch_optional(connection)
    .await?)
}

pub async fn edit_counter(connection: &mut Connection, log_id: i64) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT edit_counter FROM logs WHERE id = $1").bind(log_id).fetch_one(connection).await?)
}
