//! The catalog's rows of members: where each member lies in its object, how far it reaches, and what it counts.

use sqlx::FromRow;
use uuid::Uuid;

use crate::database::{ArchiveKey, Connection, Error};
use crate::event::PositionRange;

/// A member as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct MemberRow {
    pub member: i32,
    pub byte_start: i64,
    pub byte_end: i64,
    pub json_bytes: i64,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    /// Counts in the order of the archive's types; the list may be shorter than theirs.
    pub type_counts: Vec<i64>,
}

/// The place of a member, the positions that it reaches over, and the number of its events that match a filter.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct MemberExtent {
    pub archive_id: Uuid,
    pub etag: String,
    pub object_bytes: i64,
    pub member: i32,
    pub byte_start: i64,
    pub byte_end: i64,
    pub json_bytes: i64,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
    pub matching: i64,
}

impl MemberExtent {
    pub fn positions(&self) -> PositionRange {
        PositionRange::closed(self.first_position, self.last_position)
    }
}

/// Returns the members of one generation, in order.
pub async fn of_archive(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    generation: i64,
) -> Result<Vec<MemberRow>, Error> {
    Ok(sqlx::query_as(
        "SELECT member, byte_start, byte_end, json_bytes, first_position, last_position, count, type_counts
         FROM members
         WHERE log_id = $1 AND archive_id = $2 AND generation = $3
         ORDER BY member",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(generation)
    .fetch_all(connection)
    .await?)
}

pub async fn insert(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    generation: i64,
    members: &[MemberRow],
) -> Result<(), Error> {
    let numbers = |field: fn(&MemberRow) -> i64| members.iter().map(field).collect::<Vec<i64>>();
    // The inner arrays of an array must have one length, so these travel as texts.
    let type_counts = members.iter().map(|member| {
        let counts: Vec<String> = member.type_counts.iter().map(i64::to_string).collect();
        format!("{{{}}}", counts.join(","))
    });
    sqlx::query(
        "INSERT INTO members (log_id, archive_id, generation, member, byte_start, byte_end, json_bytes,
                              first_position, last_position, count, type_counts)
         SELECT $1, $2, $3, member, byte_start, byte_end, json_bytes, first_position, last_position, count,
                type_counts::bigint[]
         FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[],
                     $11::text[])
              AS new (member, byte_start, byte_end, json_bytes, first_position, last_position, count, type_counts)",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(generation)
    .bind(numbers(|member| member.member.into()))
    .bind(numbers(|member| member.byte_start))
    .bind(numbers(|member| member.byte_end))
    .bind(numbers(|member| member.json_bytes))
    .bind(numbers(|member| member.first_position))
    .bind(numbers(|member| member.last_position))
    .bind(numbers(|member| member.count))
    .bind(type_counts.collect::<Vec<String>>())
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn delete(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    generation: i64,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM members WHERE log_id = $1 AND archive_id = $2 AND generation = $3")
        .bind(log_id)
        .bind(archive_id)
        .bind(generation)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the members of these archives that reach into a range of positions and hold a match.
pub async fn extents(
    connection: &mut Connection,
    log_id: i64,
    archive_ids: &[Uuid],
    types: Option<&[String]>,
    range: PositionRange,
) -> Result<Vec<MemberExtent>, Error> {
    let query = match types {
        None => sqlx::query_as(include_str!("member_extents.sql")),
        Some(_) => sqlx::query_as(include_str!("member_extents_of_types.sql")),
    };
    let query = query.bind(log_id).bind(archive_ids).bind(range.start).bind(range.end);
    let query = if types.is_some() { query.bind(types) } else { query };
    Ok(query.fetch_all(connection).await?)
}

/// Returns these members of these archives. The caller adds the number of matching events, which it has from the lookup
/// pages.
pub async fn by_key(
    connection: &mut Connection,
    log_id: i64,
    keys: &[(Uuid, i32)],
) -> Result<Vec<MemberExtent>, Error> {
    let (archive_ids, members): (Vec<Uuid>, Vec<i32>) = keys.iter().copied().unzip();
    Ok(sqlx::query_as(include_str!("members_by_key.sql"))
        .bind(log_id)
        .bind(archive_ids)
        .bind(members)
        .fetch_all(connection)
        .await?)
}

/// Returns the first position of the lowest member that reaches across `position`, if a member begins before it.
pub async fn lowest_across(connection: &mut Connection, log_id: i64, position: i64) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar(concat!(
        "SELECT min(lowest.first_position) FROM (",
        include_str!("archives_across.sql"),
        ") AS archives
         CROSS JOIN LATERAL (
             SELECT first_position FROM members
             WHERE log_id = $1 AND archive_id = archives.id AND generation = archives.generation
               AND first_position < $2 AND last_position >= $2
             OFFSET 0
         ) AS lowest"
    ))
    .bind(log_id)
    .bind(position)
    .fetch_one(connection)
    .await?)
}
