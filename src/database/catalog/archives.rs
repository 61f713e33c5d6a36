//! The catalog's rows of archives. Promotions, corrections and deletions name the generation that the caller saw, so
//! one that comes too late changes nothing.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{FromRow, Postgres, Row};
use uuid::Uuid;

use crate::database::lookups::sums;
use crate::database::{Amounts, ArchiveKey, Connection, Error};
use crate::event::{Extent, Log, PositionRange};

/// An archive as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Archive {
    pub log_id: i64,
    pub id: Uuid,
    pub generation: i64,
    pub write_id: Uuid,
    pub etag: String,
    /// SHA-256 of the object.
    pub digest: Vec<u8>,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    /// Nanoseconds since the Unix epoch.
    pub raised_at_min: i64,
    pub raised_at_max: i64,
    pub json_bytes: i64,
    pub object_bytes: i64,
    pub types: Vec<String>,
    pub type_counts: Vec<i64>,
}

impl Archive {
    pub fn key(&self) -> ArchiveKey {
        ArchiveKey::new(self.log_id, self.id)
    }

    pub fn amounts(&self) -> Amounts {
        Amounts { events: self.count, json_bytes: self.json_bytes, object_bytes: self.object_bytes }
    }

    pub fn positions(&self) -> PositionRange {
        PositionRange::closed(self.first_position, self.last_position)
    }

    pub fn extent(&self) -> Extent {
        Extent { positions: self.positions(), count: self.count }
    }
}

/// The positions that an archive reaches over, and the number of its events that match a filter.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct ArchiveExtent {
    pub id: Uuid,
    pub first_position: i64,
    pub last_position: i64,
    pub matching: i64,
}

impl ArchiveExtent {
    pub fn positions(&self) -> PositionRange {
        PositionRange::closed(self.first_position, self.last_position)
    }
}

macro_rules! select_archives {
    ($rest:literal) => {
        concat!(
            "SELECT log_id, id, generation, write_id, etag, digest, first_position, last_position, count, ",
            "raised_at_min, raised_at_max, json_bytes, object_bytes, types, type_counts FROM archives ",
            $rest
        )
    };
}

/// Binds every column, in the order in which the columns are selected.
fn with_columns<'a>(
    statement: Query<'a, Postgres, PgArguments>,
    archive: &'a Archive,
) -> Query<'a, Postgres, PgArguments> {
    let Archive {
        log_id,
        id,
        generation,
        write_id,
        etag,
        digest,
        first_position,
        last_position,
        count,
        raised_at_min,
        raised_at_max,
        json_bytes,
        object_bytes,
        types,
        type_counts,
    } = archive;
    statement
        .bind(log_id)
        .bind(id)
        .bind(generation)
        .bind(write_id)
        .bind(etag)
        .bind(digest)
        .bind(first_position)
        .bind(last_position)
        .bind(count)
        .bind(raised_at_min)
        .bind(raised_at_max)
        .bind(json_bytes)
        .bind(object_bytes)
        .bind(types)
        .bind(type_counts)
}

pub async fn find(connection: &mut Connection, log_id: i64, id: Uuid) -> Result<Option<Archive>, Error> {
    Ok(sqlx::query_as(select_archives!("WHERE log_id = $1 AND id = $2"))
        .bind(log_id)
        .bind(id)
        .fetch_optional(connection)
        .await?)
}

/// Returns all archives of a log, in the order of their first positions.
pub async fn of_log(connection: &mut Connection, log_id: i64) -> Result<Vec<Archive>, Error> {
    Ok(sqlx::query_as(select_archives!("WHERE log_id = $1 ORDER BY first_position, id"))
        .bind(log_id)
        .fetch_all(connection)
        .await?)
}

/// Returns which of these archives the catalog or an intent knows, with their logs. An object of any other archive
/// belongs to nobody.
pub async fn known(connection: &mut Connection, ids: &[Uuid]) -> Result<Vec<(Log, Uuid)>, Error> {
    let rows = sqlx::query(
        "SELECT tenant, topic, known.id
         FROM (
             SELECT log_id, id FROM archives WHERE id = ANY($1)
             UNION
             SELECT log_id, archive_id FROM intents WHERE archive_id = ANY($1)
         ) AS known
         JOIN logs ON logs.id = known.log_id
         ORDER BY known.id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((Log::from_row(row)?, row.try_get("id")?))).collect()
}

/// Returns whether the catalog holds any archive.
pub async fn has_any(connection: &mut Connection) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM archives)").fetch_one(connection).await?)
}

pub async fn insert(connection: &mut Connection, archive: &Archive) -> Result<(), Error> {
    let insert = sqlx::query(
        "INSERT INTO archives (log_id, id, generation, write_id, etag, digest, first_position, last_position, count,
                               raised_at_min, raised_at_max, json_bytes, object_bytes, types, type_counts)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    );
    with_columns(insert, archive).execute(connection).await?;
    Ok(())
}

/// Makes the next generation the current one, which readers read. Returns false if the current generation is not
/// `from_generation`.
pub async fn promote(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id: id }: ArchiveKey,
    from_generation: i64,
    (write_id, etag, digest): (Uuid, &str, &[u8]),
    (json_bytes, object_bytes): (i64, i64),
) -> Result<bool, Error> {
    let promoted = sqlx::query(
        "UPDATE archives
         SET generation = generation + 1, write_id = $4, etag = $5, digest = $6, json_bytes = $7, object_bytes = $8,
             rewritten_at = now()
         WHERE log_id = $1 AND id = $2 AND generation = $3",
    )
    .bind(log_id)
    .bind(id)
    .bind(from_generation)
    .bind(write_id)
    .bind(etag)
    .bind(digest)
    .bind(json_bytes)
    .bind(object_bytes)
    .execute(connection)
    .await?;
    Ok(promoted.rows_affected() == 1)
}

/// Returns the id of an archive's log, if the catalog knows the archive.
pub async fn log_of(connection: &mut Connection, id: Uuid) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar("SELECT log_id FROM archives WHERE id = $1").bind(id).fetch_optional(connection).await?)
}

/// Corrects the catalog's facts of an object, except the times when it was archived and rewritten. Returns false if the
/// archive has another generation now, or is gone.
pub async fn correct(connection: &mut Connection, archive: &Archive) -> Result<bool, Error> {
    let correct = sqlx::query(
        "UPDATE archives
         SET write_id = $4, etag = $5, digest = $6, first_position = $7, last_position = $8, count = $9,
             raised_at_min = $10, raised_at_max = $11, json_bytes = $12, object_bytes = $13, types = $14,
             type_counts = $15
         WHERE log_id = $1 AND id = $2 AND generation = $3",
    );
    let corrected = with_columns(correct, archive).execute(connection).await?;
    Ok(corrected.rows_affected() == 1)
}

/// Returns false if the archive has another generation now, or is gone.
pub async fn delete(connection: &mut Connection, archive: &Archive) -> Result<bool, Error> {
    let deleted = sqlx::query("DELETE FROM archives WHERE log_id = $1 AND id = $2 AND generation = $3")
        .bind(archive.log_id)
        .bind(archive.id)
        .bind(archive.generation)
        .execute(connection)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Renames a type in every archive that holds it, and returns those archives with the positions that they reach over.
pub async fn rename(
    connection: &mut Connection,
    log_id: i64,
    old_type: &str,
    new_type: &str,
) -> Result<Vec<(Uuid, PositionRange)>, Error> {
    let rows = sqlx::query(
        "UPDATE archives SET types = array_replace(types, $2, $3)
         WHERE log_id = $1 AND $2 = ANY(types)
         RETURNING id, first_position, last_position",
    )
    .bind(log_id)
    .bind(old_type)
    .bind(new_type)
    .fetch_all(&mut *connection)
    .await?;
    let wrong = sums::wrong(connection, log_id).await?;
    sums::sum_up(connection, log_id, &wrong).await?;
    let archives = rows.iter().map(|row| {
        Ok((row.try_get("id")?, PositionRange::closed(row.try_get("first_position")?, row.try_get("last_position")?)))
    });
    archives.collect()
}

/// The archives that reach into the positions from $2 up to, but not including, $3: all that reach across $2, and the
/// first $4 of the others.
macro_rules! archives_within {
    ($and:literal) => {
        concat!(
            "((",
            include_str!("archives_across.sql"),
            " WHERE first_position < $3 ",
            $and,
            ") UNION ALL (
                 SELECT * FROM archives
                 WHERE log_id = $1 AND first_position >= $2 AND first_position < $3 ",
            $and,
            " ORDER BY first_position, id
                 LIMIT $4
             )) AS archives"
        )
    };
}

/// Returns the archives that reach into a range of positions and hold a match, in the order of their first positions:
/// all that reach across the start of the range, and the first `limit` of the others. The lookup pages say which
/// archives hold a stream, see [`crate::database::lookups::members_with_stream`].
pub async fn extents(
    connection: &mut Connection,
    log_id: i64,
    types: Option<&[String]>,
    range: PositionRange,
    limit: i64,
) -> Result<Vec<ArchiveExtent>, Error> {
    let query = match types {
        None => sqlx::query_as(concat!(
            "SELECT id, first_position, last_position, count AS matching
             FROM ",
            archives_within!(""),
            " ORDER BY first_position, id"
        )),
        Some(_) => sqlx::query_as(concat!(
            "SELECT id, first_position, last_position, sum(count)::bigint AS matching
             FROM (
                 SELECT id, first_position, last_position, unnest(types) AS type, unnest(type_counts) AS count
                 FROM ",
            archives_within!("AND types && $5"),
            ") AS held
             WHERE type = ANY($5)
             GROUP BY id, first_position, last_position
             ORDER BY first_position, id"
        )),
    };
    let query = query.bind(log_id).bind(range.start).bind(range.end).bind(limit);
    let query = if types.is_some() { query.bind(types) } else { query };
    Ok(query.fetch_all(connection).await?)
}

/// Returns the first position of the last archive that holds a match, by the order of first positions. The last event
/// that matches is not before that position.
pub async fn last_from(
    connection: &mut Connection,
    log_id: i64,
    types: Option<&[String]>,
) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT first_position FROM archives
         WHERE log_id = $1 AND ($2::text[] IS NULL OR types && $2)
         ORDER BY first_position DESC
         LIMIT 1",
    )
    .bind(log_id)
    .bind(types)
    .fetch_optional(connection)
    .await?)
}
