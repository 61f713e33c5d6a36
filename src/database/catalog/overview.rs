//! Figures of logs, for people who look at them. However many logs there are, a statement returns no more of them than
//! the caller asks for.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::database::log::rows::LogRow;
use crate::database::{Connection, Error};
use crate::event::Instant;

/// A log's row, and figures of its hot events.
#[derive(Debug, Clone)]
pub struct LogOverview {
    pub log_row: LogRow,
    /// The average bytes of the first hundred hot rows, without their share of indexes.
    pub row_bytes: f64,
    pub oldest_hot_raised_at: Option<Instant>,
}

/// The sums over all logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Totals {
    pub logs: i64,
    /// The number of positions that were ever given.
    pub events: i64,
    pub hot_events: i64,
    pub archived_events: i64,
    pub archived_object_bytes: i64,
}

/// The logs that have fewer old events than a batch takes, and the number of those events, among the logs that were
/// looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct RemaindersOfSome {
    /// The last log that was looked at; `None` if there was none.
    pub last_log_id: Option<i64>,
    pub logs: i64,
    pub events: i64,
}

/// The statement that selects some logs, in an order, with figures of their hot events.
macro_rules! with_figures {
    ($which:literal, $order:literal) => {
        concat!(
            "SELECT logs.*, hot.row_bytes, hot.oldest_raised_at
             FROM (SELECT id, tenant, topic, head_position, archived_count, archived_to, deleted_count,
                          archived_json_bytes, archived_object_bytes, edit_counter, catalog_epoch, hot_magnitude
                   FROM logs ",
            $which,
            ") AS logs CROSS JOIN LATERAL (",
            include_str!("log_figures.sql"),
            ") AS hot ORDER BY ",
            $order
        )
    };
}

/// Returns at most `limit` logs after one, in the order in which they were made.
pub async fn after(connection: &mut Connection, after_log_id: i64, limit: i64) -> Result<Vec<LogOverview>, Error> {
    let statement = with_figures!("WHERE id > $1 ORDER BY id LIMIT $2", "logs.id");
    let rows = sqlx::query(statement).bind(after_log_id).bind(limit).fetch_all(connection).await?;
    rows.iter().map(overview).collect()
}

/// Returns the logs with the most hot events. Among logs with equally many, the one with the most events comes first.
pub async fn largest(connection: &mut Connection, limit: i64) -> Result<Vec<LogOverview>, Error> {
    let statement = with_figures!(
        "ORDER BY head_position - archived_count - deleted_count DESC, head_position DESC, tenant, topic LIMIT $1",
        "logs.head_position - logs.archived_count - logs.deleted_count DESC, logs.head_position DESC,
         logs.tenant, logs.topic"
    );
    let rows = sqlx::query(statement).bind(limit).fetch_all(connection).await?;
    rows.iter().map(overview).collect()
}

fn overview(row: &PgRow) -> Result<LogOverview, Error> {
    let oldest: Option<i64> = row.try_get("oldest_raised_at")?;
    let oldest_hot_raised_at = oldest.map(Instant::from_unix_nanos);
    Ok(LogOverview { log_row: LogRow::from_row(row)?, row_bytes: row.try_get("row_bytes")?, oldest_hot_raised_at })
}

pub async fn totals(connection: &mut Connection) -> Result<Totals, Error> {
    Ok(sqlx::query_as(
        "SELECT count(*) AS logs,
                coalesce(sum(head_position), 0)::bigint AS events,
                coalesce(sum(head_position - archived_count - deleted_count), 0)::bigint AS hot_events,
                coalesce(sum(archived_count), 0)::bigint AS archived_events,
                coalesce(sum(archived_object_bytes), 0)::bigint AS archived_object_bytes
         FROM logs",
    )
    .fetch_one(connection)
    .await?)
}

/// Counts the remainders of at most `logs_max` logs after one, without those of excluded topics. Restored events do
/// not count.
pub async fn remainders_after(
    connection: &mut Connection,
    (after_log_id, logs_max): (i64, i64),
    (raised_at_max, batch_size): (Instant, i64),
    excluded_topics: &[String],
) -> Result<RemaindersOfSome, Error> {
    // The count of a log stops where a batch is due.
    Ok(sqlx::query_as(
        "SELECT max(id) AS last_log_id,
                count(*) FILTER (WHERE old_events > 0 AND old_events < $4) AS logs,
                coalesce(sum(old_events) FILTER (WHERE old_events < $4), 0)::bigint AS events
         FROM (
             SELECT id,
                    (SELECT count(*)
                     FROM (SELECT FROM events
                           WHERE log_id = candidates.id AND held_until IS NULL AND raised_at <= $3
                           LIMIT $4) AS old) AS old_events
             FROM (SELECT id FROM logs
                   WHERE id > $1 AND hot_magnitude > 0 AND topic <> ALL ($5)
                   ORDER BY id
                   LIMIT $2) AS candidates
         ) AS counted",
    )
    .bind(after_log_id)
    .bind(logs_max)
    .bind(raised_at_max.unix_nanos())
    .bind(batch_size)
    .bind(excluded_topics)
    .fetch_one(connection)
    .await?)
}
