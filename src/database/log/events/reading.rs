//! The questions that readers ask about hot events.

use futures::TryStreamExt;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use super::from_row;
use crate::database::{Connection, Error};
use crate::event::{Event, Filter, PositionRange};

/// Selects the events of log `$1` from position `$2` to before `$3`: the first `$5` after `$4`, and none after the one
/// whose payload reaches `$6` bytes. `$where` may use `$7`.
macro_rules! select_events_within {
    ($where:literal) => {
        concat!(
            "SELECT position, ",
            columns!(),
            " FROM (
                 SELECT *, sum(octet_length(payload)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS reached
                 FROM events
                 WHERE log_id = $1 AND position >= $2 AND position < $3 ",
            $where,
            " ORDER BY position OFFSET $4 LIMIT $5
             ) AS events
             WHERE reached - octet_length(payload) < $6
             ORDER BY position"
        )
    };
}

/// Sums the bytes of the payloads of log `$1` from position `$2` to before `$3`: of the first `$5` events after `$4`.
/// `$where` may use `$6`.
macro_rules! select_bytes_within {
    ($where:literal) => {
        concat!(
            "SELECT coalesce(sum(octet_length(payload)), 0)::bigint
             FROM (
                 SELECT payload FROM events
                 WHERE log_id = $1 AND position >= $2 AND position < $3 ",
            $where,
            " ORDER BY position OFFSET $4 LIMIT $5
             ) AS events"
        )
    };
}

/// Returns the hot events of a range that match, in order of position, after the first `skip` of them: at most `limit`,
/// and none after the one whose payload reaches `bytes_max`.
pub async fn range(
    connection: &mut Connection,
    log_id: i64,
    filter: &Filter,
    range: PositionRange,
    (skip, limit): (i64, i64),
    bytes_max: i64,
) -> Result<Vec<Event>, Error> {
    let query = match filter {
        Filter::All => sqlx::query(select_events_within!("")),
        Filter::Types(_) => sqlx::query(select_events_within!("AND type = ANY($7)")),
        Filter::Stream(_) => sqlx::query(select_events_within!("AND stream = $7")),
    };
    let query = query.bind(log_id).bind(range.start).bind(range.end).bind(skip).bind(limit).bind(bytes_max);
    // Rows come one by one, so that they are not in memory together with the events that are made of them.
    let rows = bind_filter(query, filter).fetch(connection).map_err(Error::from);
    rows.and_then(async |row| from_row(&row)).try_collect().await
}

/// Counts the hot events that match in each range between two neighbouring boundaries. The boundaries rise.
pub async fn count_between(
    connection: &mut Connection,
    log_id: i64,
    filter: &Filter,
    boundaries: &[i64],
) -> Result<Vec<i64>, Error> {
    let (Some(start), Some(end)) = (boundaries.first(), boundaries.last()) else { return Ok(Vec::new()) };
    let query = match filter {
        Filter::All => sqlx::query(
            "SELECT width_bucket(position, $4::bigint[]) AS range, count(*) AS count FROM events
             WHERE log_id = $1 AND position >= $2 AND position < $3 GROUP BY 1 ORDER BY 1",
        ),
        Filter::Types(_) => sqlx::query(
            "SELECT width_bucket(position, $4::bigint[]) AS range, count(*) AS count FROM events
             WHERE log_id = $1 AND position >= $2 AND position < $3 AND type = ANY($5) GROUP BY 1 ORDER BY 1",
        ),
        Filter::Stream(_) => sqlx::query(
            "SELECT width_bucket(position, $4::bigint[]) AS range, count(*) AS count FROM events
             WHERE log_id = $1 AND position >= $2 AND position < $3 AND stream = $5 GROUP BY 1 ORDER BY 1",
        ),
    };
    let query = query.bind(log_id).bind(start).bind(end).bind(boundaries);
    let mut counts = vec![0; boundaries.len() - 1];
    for row in bind_filter(query, filter).fetch_all(connection).await? {
        let (range, count): (i32, i64) = (row.try_get("range")?, row.try_get("count")?);
        counts[range as usize - 1] = count;
    }
    Ok(counts)
}

/// Returns the hot events with these ids, in order of position.
pub async fn by_ids(connection: &mut Connection, log_id: i64, ids: &[String]) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_events!("WHERE log_id = $1 AND id = ANY($2) ORDER BY position"))
        .bind(log_id)
        .bind(ids)
        .fetch_all(connection)
        .await?;
    rows.iter().map(from_row).collect()
}

pub async fn last(connection: &mut Connection, log_id: i64, filter: &Filter) -> Result<Option<Event>, Error> {
    let query = match filter {
        Filter::All => sqlx::query(select_events!("WHERE log_id = $1 ORDER BY position DESC LIMIT 1")),
        Filter::Types(_) => {
            sqlx::query(select_events!("WHERE log_id = $1 AND type = ANY($2) ORDER BY position DESC LIMIT 1"))
        }
        Filter::Stream(_) => {
            sqlx::query(select_events!("WHERE log_id = $1 AND stream = $2 ORDER BY position DESC LIMIT 1"))
        }
    };
    let row = bind_filter(query.bind(log_id), filter).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Returns the lowest position of a range at which there is a hot event.
pub async fn first(connection: &mut Connection, log_id: i64, range: PositionRange) -> Result<Option<i64>, Error> {
    // If the planner expects one row, min() may read all rows.
    Ok(sqlx::query_scalar(
        "SELECT position FROM events WHERE log_id = $1 AND position >= $2 AND position < $3 ORDER BY position LIMIT 1",
    )
    .bind(log_id)
    .bind(range.start)
    .bind(range.end)
    .fetch_optional(connection)
    .await?)
}

/// Returns the first position of each range at which there is no hot event, or the end of the range if every position
/// has one. It reads the hot events that the range begins with, and no others.
pub async fn first_not_hot(
    connection: &mut Connection,
    log_id: i64,
    ranges: &[PositionRange],
) -> Result<Vec<i64>, Error> {
    let (starts, ends): (Vec<i64>, Vec<i64>) = ranges.iter().map(|range| (range.start, range.end)).unzip();
    Ok(sqlx::query_scalar(
        "SELECT coalesce(
             (SELECT start_position + number - 1
              FROM (
                  SELECT position, row_number() OVER (ORDER BY position) AS number
                  FROM events
                  WHERE log_id = $1 AND position >= start_position AND position < end_position
              ) AS hot
              WHERE position <> start_position + number - 1
              ORDER BY number
              LIMIT 1),
             start_position + (
                 SELECT count(*) FROM events
                 WHERE log_id = $1 AND position >= start_position AND position < end_position
             )
         )
         FROM unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS wanted (start_position, end_position, ordinal)
         ORDER BY ordinal",
    )
    .bind(log_id)
    .bind(starts)
    .bind(ends)
    .fetch_all(connection)
    .await?)
}

/// Returns whether a stream has hot events.
pub async fn has_any(connection: &mut Connection, log_id: i64, stream: &str) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM events WHERE log_id = $1 AND stream = $2)")
        .bind(log_id)
        .bind(stream)
        .fetch_one(connection)
        .await?)
}

/// Returns the bytes of the payloads that [`range`] gives if it has no limit on bytes.
pub async fn range_bytes(
    connection: &mut Connection,
    log_id: i64,
    filter: &Filter,
    range: PositionRange,
    (skip, limit): (i64, i64),
) -> Result<i64, Error> {
    let query = match filter {
        Filter::All => sqlx::query(select_bytes_within!("")),
        Filter::Types(_) => sqlx::query(select_bytes_within!("AND type = ANY($6)")),
        Filter::Stream(_) => sqlx::query(select_bytes_within!("AND stream = $6")),
    };
    let query = query.bind(log_id).bind(range.start).bind(range.end).bind(skip).bind(limit);
    Ok(bind_filter(query, filter).fetch_one(connection).await?.try_get(0)?)
}

/// Returns the positions of the hot events of a correlation.
pub async fn positions_of_correlation(
    connection: &mut Connection,
    log_id: i64,
    correlation_id: &str,
) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT position FROM events
         WHERE log_id = $1 AND correlation_id = $2 AND correlation_id <> '' ORDER BY position",
    )
    .bind(log_id)
    .bind(correlation_id)
    .fetch_all(connection)
    .await?)
}

/// Binds the last parameter of a query, if the filter has a value.
fn bind_filter<'q>(query: Query<'q, Postgres, PgArguments>, filter: &'q Filter) -> Query<'q, Postgres, PgArguments> {
    match filter {
        Filter::All => query,
        Filter::Types(types) => query.bind(types),
        Filter::Stream(stream) => query.bind(stream),
    }
}
