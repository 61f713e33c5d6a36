//! The progress of groups. Every statement that writes one checks the owner and the epoch of its turn, so a replica
//! that lost a progress cannot change it.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::database::{Connection, Error};
use crate::event::{Group, Log};

/// A topic whose logs a group wants, or every topic if none is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wanted {
    pub group: Group,
    pub topic: Option<String>,
}

/// The right to write a progress, until another replica takes it.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Turn {
    #[sqlx(flatten)]
    pub group: Group,
    pub log_id: i64,
    pub owner: Uuid,
    pub epoch: i64,
}

/// The progress of a group in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromRow)]
pub struct Progress {
    /// The watermark: everything up to this position is handled.
    pub position: i64,
    /// The positions after the watermark that are handled, in order.
    pub handled: Vec<i64>,
}

/// The event that no subscriber at the last owner could handle, or receive. Its position is 0 if there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRow)]
pub struct Refusal {
    #[sqlx(rename = "refused_position")]
    pub position: i64,
    #[sqlx(rename = "refused_retry_number")]
    pub retry_number: i64,
    #[sqlx(rename = "refused_rounds")]
    pub rounds: i64,
    /// The number of connections in a row that ended when the event came.
    #[sqlx(rename = "refused_resets")]
    pub resets: i64,
}

#[derive(Debug, Clone, FromRow)]
pub struct Taken {
    #[sqlx(flatten)]
    pub turn: Turn,
    #[sqlx(flatten)]
    pub log: Log,
    #[sqlx(flatten)]
    pub progress: Progress,
    #[sqlx(flatten)]
    pub refusal: Refusal,
    /// The group has resends in this log.
    pub has_resends: bool,
}

/// Takes a group from the columns `group_name` and `is_parallel`.
impl FromRow<'_, PgRow> for Group {
    fn from_row(row: &PgRow) -> Result<Group, sqlx::Error> {
        Ok(Group { name: row.try_get("group_name")?, is_parallel: row.try_get("is_parallel")? })
    }
}

/// Takes every progress that is wanted, has something to deliver, and belongs to no live replica; if `log_ids` names
/// some logs, only of these.
pub async fn take(
    connection: &mut Connection,
    replica_id: Uuid,
    wanted: &[Wanted],
    log_ids: Option<&[i64]>,
) -> Result<Vec<Taken>, Error> {
    Ok(sqlx::query_as(
        "WITH pending AS (
             SELECT DISTINCT wanted.group_name, wanted.is_parallel, logs.id AS log_id
             FROM unnest($2::text[], $3::boolean[], $4::text[]) AS wanted (group_name, is_parallel, topic)
             JOIN logs ON wanted.topic IS NULL OR logs.topic = wanted.topic
             LEFT JOIN group_progress AS progress
               ON progress.group_name = wanted.group_name AND progress.is_parallel = wanted.is_parallel
              AND progress.log_id = logs.id
             WHERE ($5::bigint[] IS NULL OR logs.id = ANY($5))
               AND (logs.head_position > coalesce(progress.position, 0)
                    OR (logs.id, wanted.is_parallel, wanted.group_name) IN (
                        SELECT log_id, is_parallel, group_name FROM resends
                    ))
               AND (progress.refused_by IS DISTINCT FROM $1 OR progress.refused_until < clock_timestamp())
               AND NOT EXISTS (SELECT FROM replicas WHERE id = progress.owner AND expires_at > clock_timestamp())
         ), taken AS (
             INSERT INTO group_progress (group_name, is_parallel, log_id, owner, epoch)
             SELECT pending.group_name, pending.is_parallel, pending.log_id, replicas.id, 1
             FROM pending JOIN replicas ON replicas.id = $1 AND replicas.expires_at > clock_timestamp()
             ORDER BY pending.group_name, pending.is_parallel, pending.log_id
             ON CONFLICT ON CONSTRAINT group_progress_pkey
             DO UPDATE SET owner = EXCLUDED.owner, epoch = group_progress.epoch + 1
             WHERE NOT EXISTS (
                 SELECT FROM replicas WHERE id = group_progress.owner AND expires_at > clock_timestamp()
             )
             RETURNING *
         )
         SELECT taken.*, logs.tenant, logs.topic,
                EXISTS (SELECT FROM resends
                        WHERE resends.log_id = taken.log_id AND resends.is_parallel = taken.is_parallel
                          AND resends.group_name = taken.group_name) AS has_resends
         FROM taken JOIN logs ON logs.id = taken.log_id
         ORDER BY taken.log_id",
    )
    .bind(replica_id)
    .bind(wanted.iter().map(|wanted| wanted.group.name.as_str()).collect::<Vec<_>>())
    .bind(wanted.iter().map(|wanted| wanted.group.is_parallel).collect::<Vec<_>>())
    .bind(wanted.iter().map(|wanted| wanted.topic.as_deref()).collect::<Vec<_>>())
    .bind(log_ids)
    .fetch_all(connection)
    .await?)
}

/// Returns the progress in these logs that other live replicas own.
pub async fn owned_by_others(
    connection: &mut Connection,
    replica_id: Uuid,
    log_ids: &[i64],
) -> Result<Vec<(Group, i64)>, Error> {
    let rows = sqlx::query(
        "SELECT progress.group_name, progress.is_parallel, progress.log_id
         FROM group_progress AS progress JOIN replicas ON replicas.id = progress.owner
         WHERE progress.log_id = ANY($2) AND progress.owner <> $1 AND replicas.expires_at > clock_timestamp()",
    )
    .bind(replica_id)
    .bind(log_ids)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((Group::from_row(row)?, row.try_get("log_id")?))).collect()
}

/// Returns the progress that a replica owns and that has something to deliver.
pub async fn pending(connection: &mut Connection, replica_id: Uuid) -> Result<Vec<Taken>, Error> {
    Ok(sqlx::query_as(
        "WITH owned AS (
             SELECT progress.*, logs.tenant, logs.topic, logs.head_position,
                    EXISTS (SELECT FROM resends
                            WHERE resends.log_id = progress.log_id AND resends.is_parallel = progress.is_parallel
                              AND resends.group_name = progress.group_name) AS has_resends
             FROM group_progress AS progress JOIN logs ON logs.id = progress.log_id
             WHERE progress.owner = $1
         )
         SELECT * FROM owned WHERE head_position > position OR has_resends ORDER BY log_id",
    )
    .bind(replica_id)
    .fetch_all(connection)
    .await?)
}

/// Writes the progress, and returns the log's edit counter, or `None` if another replica has taken the progress since.
/// It locks the row until the transaction ends.
pub async fn update(
    connection: &mut Connection,
    turn: &Turn,
    Progress { position, handled }: &Progress,
) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar(
        "UPDATE group_progress
         SET position = $6, handled = $7
         WHERE group_name = $1 AND is_parallel = $2 AND log_id = $3 AND owner = $4 AND epoch = $5
         RETURNING (SELECT edit_counter FROM logs WHERE id = $3)",
    )
    .bind(&turn.group.name)
    .bind(turn.group.is_parallel)
    .bind(turn.log_id)
    .bind(turn.owner)
    .bind(turn.epoch)
    .bind(position)
    .bind(handled)
    .fetch_optional(connection)
    .await?)
}

/// Lets others take these at once, and leaves them the refusals.
pub async fn release(connection: &mut Connection, released: &[(Turn, Refusal)]) -> Result<(), Error> {
    let turns = || released.iter().map(|(turn, _)| turn);
    let refusals = |field: fn(&Refusal) -> i64| released.iter().map(|(_, refusal)| field(refusal)).collect::<Vec<_>>();
    sqlx::query(
        "UPDATE group_progress AS progress
         SET owner = NULL, refused_position = released.position, refused_retry_number = released.retry_number,
             refused_rounds = released.rounds, refused_resets = released.resets, refused_by = NULL, refused_until = NULL
         FROM unnest($1::text[], $2::boolean[], $3::bigint[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[],
                     $8::bigint[], $9::bigint[])
              AS released (group_name, is_parallel, log_id, owner, epoch, position, retry_number, rounds, resets)
         WHERE progress.group_name = released.group_name AND progress.is_parallel = released.is_parallel
           AND progress.log_id = released.log_id AND progress.owner = released.owner
           AND progress.epoch = released.epoch",
    )
    .bind(turns().map(|turn| turn.group.name.as_str()).collect::<Vec<_>>())
    .bind(turns().map(|turn| turn.group.is_parallel).collect::<Vec<_>>())
    .bind(turns().map(|turn| turn.log_id).collect::<Vec<_>>())
    .bind(turns().map(|turn| turn.owner).collect::<Vec<_>>())
    .bind(turns().map(|turn| turn.epoch).collect::<Vec<_>>())
    .bind(refusals(|refusal| refusal.position))
    .bind(refusals(|refusal| refusal.retry_number))
    .bind(refusals(|refusal| refusal.rounds))
    .bind(refusals(|refusal| refusal.resets))
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn release_all(connection: &mut Connection, replica_id: Uuid) -> Result<(), Error> {
    sqlx::query("UPDATE group_progress SET owner = NULL WHERE owner = $1").bind(replica_id).execute(connection).await?;
    Ok(())
}

/// Lets others take a progress at once, and its owner again after a while.
pub async fn hand_over(
    connection: &mut Connection,
    turn: &Turn,
    refusal: Refusal,
    wait: Duration,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE group_progress
         SET owner = NULL, refused_position = $6, refused_retry_number = $7, refused_rounds = $8, refused_resets = $9,
             refused_by = $4, refused_until = clock_timestamp() + make_interval(secs => $10)
         WHERE group_name = $1 AND is_parallel = $2 AND log_id = $3 AND owner = $4 AND epoch = $5",
    )
    .bind(&turn.group.name)
    .bind(turn.group.is_parallel)
    .bind(turn.log_id)
    .bind(turn.owner)
    .bind(turn.epoch)
    .bind(refusal.position)
    .bind(refusal.retry_number)
    .bind(refusal.rounds)
    .bind(refusal.resets)
    .bind(wait.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the watermark of a group in a log; 0 if the group has no progress there.
pub async fn handled_position(connection: &mut Connection, group: &Group, log_id: i64) -> Result<i64, Error> {
    let position: Option<i64> = sqlx::query_scalar(
        "SELECT position FROM group_progress WHERE group_name = $1 AND is_parallel = $2 AND log_id = $3",
    )
    .bind(&group.name)
    .bind(group.is_parallel)
    .bind(log_id)
    .fetch_optional(connection)
    .await?;
    Ok(position.unwrap_or_default())
}

/// Returns whether the group still has to handle one of these positions, and the error of one that it could not handle.
pub async fn unhandled(
    connection: &mut Connection,
    group: &Group,
    log_id: i64,
    positions: &[i64],
) -> Result<(bool, Option<String>), Error> {
    let row = sqlx::query(
        "SELECT EXISTS (
             SELECT FROM unnest($4::bigint[]) AS wanted (position)
             WHERE NOT EXISTS (
                 SELECT FROM group_progress AS progress
                 WHERE progress.group_name = $1 AND progress.is_parallel = $2 AND progress.log_id = $3
                   AND (progress.position >= wanted.position OR wanted.position = ANY(progress.handled))
             ) OR EXISTS (
                 SELECT FROM resends
                 WHERE resends.group_name = $1 AND resends.is_parallel = $2 AND resends.log_id = $3
                   AND resends.position = wanted.position
             )
         ) AS is_waiting,
         (SELECT error FROM erroneous_events
          WHERE group_name = $1 AND is_parallel = $2 AND log_id = $3 AND position = ANY($4)
          ORDER BY position LIMIT 1) AS error",
    )
    .bind(&group.name)
    .bind(group.is_parallel)
    .bind(log_id)
    .bind(positions)
    .fetch_one(connection)
    .await?;
    Ok((row.try_get("is_waiting")?, row.try_get("error")?))
}
