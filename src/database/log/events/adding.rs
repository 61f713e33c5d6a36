//! Rows for events. Either all events of a call get their rows, or none of them does.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Postgres, Row};
use time::OffsetDateTime;

use super::copying::Rows;
use crate::database::log::rows::LogRow;
use crate::database::{Connection, Error};
use crate::event::{Event, Metadata};

/// The number of columns of an event's row: the log's id, the position, and `columns!`.
const COPIED_COLUMNS: i16 = 13;
/// The fewest bytes that are sent at once, except at the end.
const COPIED_BYTES: usize = 256 * 1024;

/// The statement that moves the end of a log and inserts events behind it.
macro_rules! appending {
    ($insert:literal) => {
        concat!(
            "WITH log AS (",
            include_str!("move_end.sql"),
            "), appended AS (",
            include_str!($insert),
            ") SELECT end_position FROM log"
        )
    };
}

/// Inserts events in order of position, at the positions that they bear. They are not archived before the hold is over.
pub async fn insert(
    connection: &mut Connection,
    log_id: i64,
    events: &[Event],
    held_until: Option<OffsetDateTime>,
) -> Result<(), Error> {
    let insert = sqlx::query(include_str!("insert.sql")).bind(log_id).bind(held_until);
    bind_events(insert, events).execute(connection).await?;
    Ok(())
}

/// Appends events to their log, and returns the position at which the log ended before. Until then the events bear the
/// positions from 1 on. It is one statement, and a transaction by itself. It returns `None` and changes nothing if an
/// id is hot already, or if events of the log left their rows or came back into them since `log_row` was read.
pub async fn append(connection: &mut Connection, log_row: &LogRow, events: &[Event]) -> Result<Option<i64>, Error> {
    let append = match events {
        // Most calls bring one event, and where nobody else publishes, every transaction holds just that one.
        [event] => bind_event(bind_end(sqlx::query(appending!("append_one.sql")), log_row, 1), event),
        events => bind_events(bind_end(sqlx::query(appending!("append.sql")), log_row, events.len()), events),
    };
    unless_known(append.fetch_optional(connection).await)?.map(|row| Ok(row.try_get("end_position")?)).transpose()
}

/// Appends many events as [`append`] does, in a transaction of the caller. It makes each event while Postgres takes the
/// events before it. After `None`, the caller has nothing to commit.
pub async fn append_many(
    connection: &mut Connection,
    log_row: &LogRow,
    ids: &[String],
    events: impl Iterator<Item = Event>,
) -> Result<Option<i64>, Error> {
    let end_position: Option<i64> = bind_end(sqlx::query(include_str!("move_end.sql")), log_row, ids.len())
        .bind(ids)
        .fetch_optional(&mut *connection)
        .await?
        .map(|row| row.try_get("end_position"))
        .transpose()?;
    let Some(end_position) = end_position else { return Ok(None) };
    let statement = concat!("COPY events (log_id, position, ", columns!(), ") FROM STDIN (FORMAT binary)");
    let mut copy = connection.copy_in(statement).await?;
    let mut rows = Rows::new();
    for event in events {
        let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr: _ } = &event;
        let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
        rows.begin(COPIED_COLUMNS);
        for number in [log_row.id, end_position + position, raised_at.unix_nanos(), *deployment_id] {
            rows.number(number);
        }
        for text in [id, stream, event_type, reason, correlation_id, causation_id, user_id, payload.as_str()] {
            rows.text(text);
        }
        rows.text_or_null(event.gdpr_json().as_deref());
        // Postgres inserts the rows that it has while more are written.
        if rows.len() >= COPIED_BYTES {
            copy.send(rows.take()).await?;
        }
    }
    copy.send(rows.finish()).await?;
    Ok(unless_known(copy.finish().await.map(Some))?.map(|_| end_position))
}

/// Turns the refusal of a known id into `None`.
fn unless_known<T>(outcome: Result<Option<T>, sqlx::Error>) -> Result<Option<T>, Error> {
    match outcome {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
        outcome => Ok(outcome?),
    }
}

/// Binds the parameters that move the end of a log.
fn bind_end<'q>(
    query: Query<'q, Postgres, PgArguments>,
    log_row: &LogRow,
    event_count: usize,
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(log_row.id)
        .bind(log_row.archived_count)
        .bind(log_row.catalog_epoch)
        .bind(log_row.deleted_count)
        .bind(event_count as i64)
}

/// Binds the columns of events as arrays, the ids first.
fn bind_events<'q>(query: Query<'q, Postgres, PgArguments>, events: &'q [Event]) -> Query<'q, Postgres, PgArguments> {
    let gdpr: Vec<Option<String>> = events.iter().map(Event::gdpr_json).collect();
    let longs = |field: fn(&Event) -> i64| events.iter().map(field).collect::<Vec<i64>>();
    query
        .bind(texts(events, |event| &event.id))
        .bind(longs(|event| event.position))
        .bind(longs(|event| event.raised_at.unix_nanos()))
        .bind(longs(|event| event.metadata.deployment_id))
        .bind(texts(events, |event| &event.stream))
        .bind(texts(events, |event| &event.event_type))
        .bind(texts(events, |event| &event.reason))
        .bind(texts(events, |event| &event.metadata.correlation_id))
        .bind(texts(events, |event| &event.metadata.causation_id))
        .bind(texts(events, |event| &event.metadata.user_id))
        .bind(texts(events, |event| event.payload.as_str()))
        .bind(gdpr)
}

/// Binds the columns of one event. The id is an array, which moving the end of the log wants.
fn bind_event<'q>(query: Query<'q, Postgres, PgArguments>, event: &'q Event) -> Query<'q, Postgres, PgArguments> {
    let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr: _ } = event;
    let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
    query
        .bind([id.as_str()])
        .bind(position)
        .bind(raised_at.unix_nanos())
        .bind(deployment_id)
        .bind(stream)
        .bind(event_type)
        .bind(reason)
        .bind(correlation_id)
        .bind(causation_id)
        .bind(user_id)
        .bind(payload.as_str())
        .bind(event.gdpr_json())
}

fn texts(events: &[Event], field: fn(&Event) -> &str) -> Vec<&str> {
    events.iter().map(field).collect()
}
