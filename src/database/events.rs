use bytes::Bytes;
use futures::Stream;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};
use time::OffsetDateTime;

use crate::database::{Error, Topic};
use crate::event::{Event, Filter, Instant, Json, Metadata};

/// In one statement.
const POSITIONS_AT_ONCE: usize = 10_000;

/// Those of an event but for its position.
macro_rules! columns {
    () => {
        "raised_at, deployment_id, id, stream, type, reason, correlation_id, causation_id, user_id, payload, gdpr"
    };
}

macro_rules! select_events {
    ($rest:literal) => {
        concat!("SELECT position, ", columns!(), " FROM events ", $rest)
    };
}

/// Of the columns of `select_events!`, in their order.
pub(super) fn from_row(row: &PgRow) -> Result<Event, Error> {
    let gdpr: Option<&str> = row.try_get(11)?;
    Ok(Event {
        position: row.try_get(0)?,
        raised_at: Instant::from_unix_nanos(row.try_get(1)?),
        metadata: Metadata {
            deployment_id: row.try_get(2)?,
            correlation_id: row.try_get(7)?,
            causation_id: row.try_get(8)?,
            user_id: row.try_get(9)?,
        },
        id: row.try_get(3)?,
        stream: row.try_get(4)?,
        event_type: row.try_get(5)?,
        reason: row.try_get(6)?,
        payload: Json::trusted(raw_bytes(row, 10)?),
        gdpr: Event::gdpr_from_json(gdpr).map_err(|error| Error::Damaged(error.to_string()))?,
    })
}

/// A text as it came over the wire; Postgres has checked that it is UTF-8.
fn raw_bytes(row: &PgRow, column: usize) -> Result<Bytes, Error> {
    let value = row.try_get_raw(column)?;
    let bytes = value.as_bytes().map_err(|error| Error::Damaged(error.to_string()))?;
    Ok(Bytes::copy_from_slice(bytes))
}

/// The first twelve parameters, which `bind_events` binds, as rows.
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

/// Events in order of position, with the positions that they bear. They are not archived before the hold is over.
pub async fn insert(
    connection: &mut PgConnection,
    topic_id: i64,
    events: &[Event],
    held_until: Option<OffsetDateTime>,
) -> Result<(), Error> {
    let insert = sqlx::query(concat!(
        "INSERT INTO events (topic_id, held_until, position, ",
        columns!(),
        ") SELECT $13, $14, new.* FROM ",
        bound_events!()
    ));
    bind_events(insert, events).bind(topic_id).bind(held_until).execute(connection).await?;
    Ok(())
}

/// Puts events behind the end of their log, which bear the positions from 1 on until then, and says where that end
/// was. One statement, and a transaction by itself. `None`, and nothing happened, if an id is hot already, or if events
/// of the topic left their rows or came back into them since it was read.
pub async fn append(connection: &mut PgConnection, topic: &Topic, events: &[Event]) -> Result<Option<i64>, Error> {
    // The update waits for the row and looks at it as it is then, however old the snapshot of the statement is. Ids are
    // looked for all the same: inserting one that an archiver is deleting would wait for it with the topic locked. In
    // their order, which one index has: while the table is small, others that begin with the topic look as good to the
    // planner, and a plan is kept while the table grows.
    let append = sqlx::query(concat!(
        "WITH topic AS (
             UPDATE topics SET head_position = head_position + $13
             WHERE id = $14 AND archived_count = $15 AND restored_count = $16 AND deleted_count = $17
               AND NOT EXISTS (
                   SELECT FROM unnest($4::text[]) AS wanted (id)
                   CROSS JOIN LATERAL (
                       SELECT events.topic_id, events.id FROM events
                       WHERE (events.topic_id, events.id) >= ($14, wanted.id)
                       ORDER BY events.topic_id, events.id
                       LIMIT 1
                   ) AS next
                   WHERE next.topic_id = $14 AND next.id = wanted.id
               )
             RETURNING id AS topic_id, head_position - $13 AS end_position
         ), appended AS (
             INSERT INTO events (topic_id, position, ",
        columns!(),
        ") SELECT topic_id, end_position + position, ",
        columns!(),
        " FROM topic, ",
        bound_events!(),
        ")
         SELECT end_position FROM topic"
    ));
    let append = bind_events(append, events).bind(events.len() as i64).bind(topic.id);
    let append = append.bind(topic.archived_count).bind(topic.restored_count).bind(topic.deleted_count);
    match append.fetch_optional(connection).await {
        Ok(row) => Ok(row.map(|row| row.try_get("end_position")).transpose()?),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
        Err(error) => Err(error.into()),
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

fn texts(events: &[Event], field: fn(&Event) -> &str) -> Vec<&str> {
    events.iter().map(field).collect()
}

macro_rules! select_events_within {
    ($where:literal) => {
        concat!(
            "SELECT position, ",
            columns!(),
            " FROM (
                 SELECT *, sum(octet_length(payload)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS reached
                 FROM events
                 WHERE topic_id = $1 AND position >= $2 AND position < $3 ",
            $where,
            " ORDER BY position OFFSET $4 LIMIT $5
             ) AS events
             WHERE reached - octet_length(payload) < $6
             ORDER BY position"
        )
    };
}

/// Hot events at positions `start..end` that match, in order of position, after `skip` of them; at most `limit`, and
/// none behind the one whose payload reaches `bytes_max`.
pub async fn hot_range(
    connection: &mut PgConnection,
    topic_id: i64,
    filter: &Filter,
    (start, end): (i64, i64),
    (skip, limit): (i64, i64),
    bytes_max: i64,
) -> Result<Vec<Event>, Error> {
    let query = match filter {
        Filter::All => sqlx::query(select_events_within!("")),
        Filter::Types(_) => sqlx::query(select_events_within!("AND type = ANY($7)")),
        Filter::Stream(_) => sqlx::query(select_events_within!("AND stream = $7")),
    };
    let query = query.bind(topic_id).bind(start).bind(end).bind(skip).bind(limit).bind(bytes_max);
    bind_filter(query, filter).fetch_all(connection).await?.iter().map(from_row).collect()
}

/// How many hot events match in each of the ranges that lie between the boundaries, which rise.
pub async fn count_between(
    connection: &mut PgConnection,
    topic_id: i64,
    filter: &Filter,
    boundaries: &[i64],
) -> Result<Vec<i64>, Error> {
    let (Some(start), Some(end)) = (boundaries.first(), boundaries.last()) else { return Ok(Vec::new()) };
    let query = match filter {
        Filter::All => sqlx::query(
            "SELECT width_bucket(position, $4::bigint[]) AS range, count(*) AS count FROM events
             WHERE topic_id = $1 AND position >= $2 AND position < $3 GROUP BY 1 ORDER BY 1",
        ),
        Filter::Types(_) => sqlx::query(
            "SELECT width_bucket(position, $4::bigint[]) AS range, count(*) AS count FROM events
             WHERE topic_id = $1 AND position >= $2 AND position < $3 AND type = ANY($5) GROUP BY 1 ORDER BY 1",
        ),
        Filter::Stream(_) => sqlx::query(
            "SELECT width_bucket(position, $4::bigint[]) AS range, count(*) AS count FROM events
             WHERE topic_id = $1 AND position >= $2 AND position < $3 AND stream = $5 GROUP BY 1 ORDER BY 1",
        ),
    };
    let query = query.bind(topic_id).bind(start).bind(end).bind(boundaries);
    let mut counts = vec![0; boundaries.len() - 1];
    for row in bind_filter(query, filter).fetch_all(connection).await? {
        let (range, count): (i32, i64) = (row.try_get("range")?, row.try_get("count")?);
        counts[range as usize - 1] = count;
    }
    Ok(counts)
}

/// The hot ones of these ids, in order of position.
pub async fn hot_by_ids(connection: &mut PgConnection, topic_id: i64, ids: &[String]) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_events!("WHERE topic_id = $1 AND id = ANY($2) ORDER BY position"))
        .bind(topic_id)
        .bind(ids)
        .fetch_all(connection)
        .await?;
    rows.iter().map(from_row).collect()
}

/// The hot events at these positions or with these ids, in order of position, held until the transaction ends.
pub async fn lock_hot(
    connection: &mut PgConnection,
    topic_id: i64,
    positions: &[i64],
    ids: &[&str],
) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_events!(
        "WHERE topic_id = $1 AND (position = ANY($2) OR id = ANY($3)) ORDER BY position FOR UPDATE"
    ))
    .bind(topic_id)
    .bind(positions)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// Where the hot events of a correlation are.
pub async fn positions_of_correlation(
    connection: &mut PgConnection,
    topic_id: i64,
    correlation_id: &str,
) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT position FROM events
         WHERE topic_id = $1 AND correlation_id = $2 AND correlation_id <> '' ORDER BY position",
    )
    .bind(topic_id)
    .bind(correlation_id)
    .fetch_all(connection)
    .await?)
}

pub async fn last_hot(connection: &mut PgConnection, topic_id: i64, filter: &Filter) -> Result<Option<Event>, Error> {
    let query = match filter {
        Filter::All => sqlx::query(select_events!("WHERE topic_id = $1 ORDER BY position DESC LIMIT 1")),
        Filter::Types(_) => {
            sqlx::query(select_events!("WHERE topic_id = $1 AND type = ANY($2) ORDER BY position DESC LIMIT 1"))
        }
        Filter::Stream(_) => {
            sqlx::query(select_events!("WHERE topic_id = $1 AND stream = $2 ORDER BY position DESC LIMIT 1"))
        }
    };
    let row = bind_filter(query.bind(topic_id), filter).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Binds the last parameter of a query that has one where there is something to filter by.
fn bind_filter<'q>(query: Query<'q, Postgres, PgArguments>, filter: &'q Filter) -> Query<'q, Postgres, PgArguments> {
    match filter {
        Filter::All => query,
        Filter::Types(types) => query.bind(types),
        Filter::Stream(stream) => query.bind(stream),
    }
}

/// The positions that a batch reaches from and to: the first `batch_size` old ones in order of position that nothing
/// holds at this moment. `None` if there are fewer.
pub async fn eligible_batch(
    connection: &mut PgConnection,
    topic_id: i64,
    (raised_at_max, now): (i64, OffsetDateTime),
    batch_size: i64,
) -> Result<Option<(i64, i64)>, Error> {
    let enough: bool = sqlx::query_scalar(
        "SELECT count(*) >= $3 FROM (
             (SELECT 1 FROM events
              WHERE topic_id = $1 AND held_until IS NULL AND raised_at <= $2
              ORDER BY raised_at
              LIMIT $3)
             UNION ALL
             (SELECT 1 FROM events
              WHERE topic_id = $1 AND held_until <= $4 AND raised_at <= $2
              ORDER BY held_until
              LIMIT $3)
         ) AS eligible",
    )
    .bind(topic_id)
    .bind(raised_at_max)
    .bind(batch_size)
    .bind(now)
    .fetch_one(&mut *connection)
    .await?;
    if !enough {
        return Ok(None);
    }
    let row = sqlx::query(
        "SELECT min(position) AS first_position, max(position) AS last_position FROM (
             SELECT position FROM events
             WHERE topic_id = $1 AND raised_at <= $2 AND (held_until IS NULL OR held_until <= $4)
             ORDER BY position
             LIMIT $3
         ) AS eligible",
    )
    .bind(topic_id)
    .bind(raised_at_max)
    .bind(batch_size)
    .bind(now)
    .fetch_one(connection)
    .await?;
    let range: (Option<i64>, Option<i64>) = (row.try_get("first_position")?, row.try_get("last_position")?);
    Ok(range.0.zip(range.1))
}

/// Streams the old events at positions `first..=last` that nothing holds at this moment, in order of position, out of
/// one snapshot.
pub fn export(
    connection: &mut PgConnection,
    topic_id: i64,
    (raised_at_max, now): (i64, OffsetDateTime),
    (first_position, last_position): (i64, i64),
) -> impl Stream<Item = Result<Event, Error>> + Send + '_ {
    use futures::StreamExt;
    sqlx::query(select_events!(
        "WHERE topic_id = $1 AND position BETWEEN $2 AND $3 AND raised_at <= $4
           AND (held_until IS NULL OR held_until <= $5)
         ORDER BY position"
    ))
    .bind(topic_id)
    .bind(first_position)
    .bind(last_position)
    .bind(raised_at_max)
    .bind(now)
    .fetch(connection)
    .map(|row| from_row(&row?))
}

/// Deletes the hot events at these positions, each range from its first to its last, and says how many there were.
pub async fn delete_ranges(connection: &mut PgConnection, topic_id: i64, ranges: &[(i64, i64)]) -> Result<u64, Error> {
    if let [(first, last)] = ranges {
        let deleted = sqlx::query("DELETE FROM events WHERE topic_id = $1 AND position BETWEEN $2 AND $3")
            .bind(topic_id)
            .bind(first)
            .bind(last)
            .execute(connection)
            .await?;
        return Ok(deleted.rows_affected());
    }
    // A join with many ranges can become a scan of the table for each of them.
    let positions: Vec<i64> = ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
    let mut count = 0;
    for positions in positions.chunks(POSITIONS_AT_ONCE) {
        let deleted = sqlx::query("DELETE FROM events WHERE topic_id = $1 AND position = ANY($2)")
            .bind(topic_id)
            .bind(positions)
            .execute(&mut *connection)
            .await?;
        count += deleted.rows_affected();
    }
    Ok(count)
}

/// Replaces payload and GDPR data. False if the event is not hot any more, or not what it was.
pub async fn replace(connection: &mut PgConnection, topic_id: i64, old: &Event, new: &Event) -> Result<bool, Error> {
    let replaced = sqlx::query(
        "UPDATE events SET payload = $5, gdpr = $6
         WHERE topic_id = $1 AND position = $2 AND payload = $3 AND gdpr IS NOT DISTINCT FROM $4",
    )
    .bind(topic_id)
    .bind(old.position)
    .bind(old.payload.as_str())
    .bind(old.gdpr_json())
    .bind(new.payload.as_str())
    .bind(new.gdpr_json())
    .execute(connection)
    .await?;
    Ok(replaced.rows_affected() == 1)
}

/// The hot events with a field of this GDPR id that still shows its value, in order of position, held until the
/// transaction ends.
pub async fn lock_hot_by_gdpr_id(
    connection: &mut PgConnection,
    topic_id: i64,
    gdpr_id: &str,
) -> Result<Vec<Event>, Error> {
    let rows = sqlx::query(select_events!(
        "WHERE topic_id = $1 AND gdpr IS NOT NULL AND gdpr_ids(gdpr) @> ARRAY[$2] ORDER BY position FOR UPDATE"
    ))
    .bind(topic_id)
    .bind(gdpr_id)
    .fetch_all(connection)
    .await?;
    rows.iter().map(from_row).collect()
}

/// Gives the hot events of a type another one, and says how many there were.
pub async fn rename_hot(
    connection: &mut PgConnection,
    topic_id: i64,
    old_type: &str,
    new_type: &str,
) -> Result<u64, Error> {
    let renamed = sqlx::query("UPDATE events SET type = $3 WHERE topic_id = $1 AND type = $2")
        .bind(topic_id)
        .bind(old_type)
        .bind(new_type)
        .execute(connection)
        .await?;
    Ok(renamed.rows_affected())
}

/// The positions of hot events, as ranges from the first to the last of each.
pub async fn hot_position_ranges(connection: &mut PgConnection, topic_id: i64) -> Result<Vec<(i64, i64)>, Error> {
    Ok(sqlx::query_as(
        "SELECT min(position), max(position)
         FROM (
             SELECT position, position - row_number() OVER (ORDER BY position) AS range
             FROM events
             WHERE topic_id = $1
         ) AS hot
         GROUP BY range
         ORDER BY min(position)",
    )
    .bind(topic_id)
    .fetch_all(connection)
    .await?)
}

pub async fn oldest_raised_at(connection: &mut PgConnection, topic_id: i64) -> Result<Option<Instant>, Error> {
    let nanos: Option<i64> = sqlx::query_scalar(
        "SELECT least(
             (SELECT min(raised_at) FROM events WHERE topic_id = $1 AND held_until IS NULL),
             (SELECT min(raised_at) FROM events WHERE topic_id = $1 AND held_until IS NOT NULL)
         )",
    )
    .bind(topic_id)
    .fetch_one(connection)
    .await?;
    Ok(nanos.map(Instant::from_unix_nanos))
}

/// Bytes of a row on average, without its share of indexes, from the first thousand of a topic.
pub async fn average_row_bytes(connection: &mut PgConnection, topic_id: i64) -> Result<f64, Error> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(avg(pg_column_size(sample.*)), 0)::float8
         FROM (SELECT * FROM events WHERE topic_id = $1 ORDER BY position LIMIT 1000) AS sample",
    )
    .bind(topic_id)
    .fetch_one(connection)
    .await?)
}

/// Bytes on disk of the table of hot events, its indexes and long values.
pub async fn table_bytes(connection: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar("SELECT pg_total_relation_size('events')").fetch_one(connection).await?)
}
