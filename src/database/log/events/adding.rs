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

/// The first twelve parameters as rows; `bind_events` binds them.
macro_rules! bound_events {
    () => {
        concat!(
            "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], ",
            "$8::text[], $9::text[], $10::text[], $11::text[], $12::text[]) AS new (position, ",
            columns!(),
            ")"
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
    let insert = sqlx::query(concat!(
        "INSERT INTO events (log_id, held_until, position, ",
        columns!(),
        ") SELECT $13, $14, new.* FROM ",
        bound_events!()
    ));
    bind_events(insert, events).bind(log_id).bind(held_until).execute(connection).await?;
    Ok(())
}

/// Moves the end of a log, if the log's row is what it was when it was read, and none of the new ids is hot.
///
/// The update waits for the row and sees it as it is then, however old the view of the statement is. The index on ids
/// refuses a known id in any case. But inserting an id that an archiver is deleting would wait for the archiver with
/// the log's row locked, so the update looks for the ids first while somebody has the log's lease. It looks in the
/// order of the ids, which only one index has: while the table is small, other indexes that begin with the log look as
/// good to the planner, and Postgres keeps a plan while the table grows.
macro_rules! move_end {
    ($ids:literal, $count:literal, $log_id:literal, $archived:literal, $epoch:literal, $deleted:literal) => {
        concat!(
            "UPDATE logs SET head_position = head_position + ",
            $count,
            ", hot_magnitude = magnitude(head_position + ",
            $count,
            " - archived_count - deleted_count)",
            " WHERE id = ",
            $log_id,
            " AND archived_count = ",
            $archived,
            " AND catalog_epoch = ",
            $epoch,
            " AND deleted_count = ",
            $deleted,
            " AND (lease_holder IS NULL OR NOT EXISTS (
                 SELECT FROM unnest(",
            $ids,
            "::text[]) AS wanted (id)
                 CROSS JOIN LATERAL (
                     SELECT events.log_id, events.id FROM events
                     WHERE (events.log_id, events.id) >= (",
            $log_id,
            ", wanted.id)
                     ORDER BY events.log_id, events.id
                     LIMIT 1
                 ) AS next
                 WHERE next.log_id = ",
            $log_id,
            " AND next.id = wanted.id
             ))
             RETURNING id AS log_id, head_position - ",
            $count,
            " AS end_position"
        )
    };
}

/// An append: `$log_row` moves the end of the log, and `$rows` says where the parameters of the events are.
macro_rules! append {
    ($log_row:expr, $rows:expr) => {
        concat!(
            "WITH topic AS (",
            $log_row,
            "), appended AS (INSERT INTO events (log_id, position, ",
            columns!(),
            ") SELECT log_id, end_position + position, ",
            columns!(),
            " FROM topic, ",
            $rows,
            ") SELECT end_position FROM topic"
        )
    };
}

/// One event as a row, from the parameters of `bound_events!`, each of which is a single value here.
macro_rules! bound_event {
    () => {
        concat!(
            "(SELECT $1::bigint, $2::bigint, $3::bigint, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text, ",
            "$10::text, $11::text, $12::text) AS new (position, ",
            columns!(),
            ")"
        )
    };
}

/// Appends events to their log, and returns the position at which the log ended before. Until then the events bear the
/// positions from 1 on. It is one statement, and a transaction by itself. It returns `None` and changes nothing if an
/// id is hot already, or if events of the log left their rows or came back into them since `log_row` was read.
pub async fn append(connection: &mut Connection, log_row: &LogRow, events: &[Event]) -> Result<Option<i64>, Error> {
    let append = match events {
        // Most calls bring one event, and where nobody else publishes, every transaction holds just that one.
        [event] => bind_event(
            sqlx::query(append!(move_end!("ARRAY[$4]", "$13", "$14", "$15", "$16", "$17"), bound_event!())),
            event,
        ),
        events => bind_events(
            sqlx::query(append!(move_end!("$4", "$13", "$14", "$15", "$16", "$17"), bound_events!())),
            events,
        ),
    };
    let append = append.bind(events.len() as i64).bind(log_row.id);
    let append = append.bind(log_row.archived_count).bind(log_row.catalog_epoch).bind(log_row.deleted_count);
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
    let end_position: Option<i64> = sqlx::query(move_end!("$1", "$2", "$3", "$4", "$5", "$6"))
        .bind(ids)
        .bind(ids.len() as i64)
        .bind(log_row.id)
        .bind(log_row.archived_count)
        .bind(log_row.catalog_epoch)
        .bind(log_row.deleted_count)
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

/// Binds the parameters of `bound_events!`.
fn bind_events<'q>(query: Query<'q, Postgres, PgArguments>, events: &'q [Event]) -> Query<'q, Postgres, PgArguments> {
    let gdpr: Vec<Option<String>> = events.iter().map(Event::gdpr_json).collect();
    let longs = |field: fn(&Event) -> i64| events.iter().map(field).collect::<Vec<i64>>();
    query
        .bind(longs(|event| event.position))
        .bind(longs(|event| event.raised_at.unix_nanos()))
        .bind(longs(|event| event.metadata.deployment_id))
        .bind(texts(events, |event| &event.id))
        .bind(texts(events, |event| &event.stream))
        .bind(texts(events, |event| &event.event_type))
        .bind(texts(events, |event| &event.reason))
        .bind(texts(events, |event| &event.metadata.correlation_id))
        .bind(texts(events, |event| &event.metadata.causation_id))
        .bind(texts(events, |event| &event.metadata.user_id))
        .bind(texts(events, |event| event.payload.as_str()))
        .bind(gdpr)
}

/// Binds the parameters of `bound_event!`.
fn bind_event<'q>(query: Query<'q, Postgres, PgArguments>, event: &'q Event) -> Query<'q, Postgres, PgArguments> {
    let Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr: _ } = event;
    let Metadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
    query
        .bind(position)
        .bind(raised_at.unix_nanos())
        .bind(deployment_id)
        .bind(id)
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
