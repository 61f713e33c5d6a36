//! Events that groups could not handle, and resends. An event is in one of the two lists until its group has handled
//! it, whichever process dies.

use sqlx::{FromRow, Row};

use crate::database::groups::progress::Turn;
use crate::database::{Connection, Error};
use crate::event::Group;

/// An event that a group could not handle.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Erroneous {
    pub group_name: String,
    pub position: i64,
    pub error: String,
    pub retry_number: i64,
}

pub async fn insert(
    connection: &mut Connection,
    turn: &Turn,
    position: i64,
    error: &str,
    retry_number: i64,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO erroneous_events (log_id, is_parallel, position, group_name, error, retry_number)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT ON CONSTRAINT erroneous_events_pkey
         DO UPDATE SET error = EXCLUDED.error, retry_number = EXCLUDED.retry_number",
    )
    .bind(turn.log_id)
    .bind(turn.group.is_parallel)
    .bind(position)
    .bind(&turn.group.name)
    .bind(error)
    .bind(retry_number)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns the erroneous events after a position and a group's name, in the order of both.
pub async fn after(
    connection: &mut Connection,
    log_id: i64,
    is_parallel: bool,
    (position, group_name): (i64, &str),
    limit: i64,
) -> Result<Vec<Erroneous>, Error> {
    Ok(sqlx::query_as(
        "SELECT group_name, position, error, retry_number
         FROM erroneous_events
         WHERE log_id = $1 AND is_parallel = $2 AND (position, group_name) > ($3, $4)
         ORDER BY position, group_name
         LIMIT $5",
    )
    .bind(log_id)
    .bind(is_parallel)
    .bind(position)
    .bind(group_name)
    .bind(limit)
    .fetch_all(connection)
    .await?)
}

/// Returns the positions that a group has passed without handling them, in order.
pub async fn unsettled(connection: &mut Connection, group: &Group, log_id: i64) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT position FROM erroneous_events WHERE log_id = $1 AND is_parallel = $2 AND group_name = $3
         UNION
         SELECT position FROM resends WHERE log_id = $1 AND is_parallel = $2 AND group_name = $3
         ORDER BY position",
    )
    .bind(log_id)
    .bind(group.is_parallel)
    .bind(&group.name)
    .fetch_all(connection)
    .await?)
}

/// Moves an event from the list of erroneous ones to the resends. Returns false if it is not on the list.
pub async fn resend(connection: &mut Connection, group: &Group, log_id: i64, position: i64) -> Result<bool, Error> {
    let moved = sqlx::query(
        "WITH taken_off AS (
             DELETE FROM erroneous_events
             WHERE log_id = $1 AND is_parallel = $2 AND position = $3 AND group_name = $4
             RETURNING log_id, is_parallel, position, group_name, retry_number
         )
         INSERT INTO resends (log_id, is_parallel, position, group_name, retry_number)
         SELECT log_id, is_parallel, position, group_name, retry_number + 1 FROM taken_off",
    )
    .bind(log_id)
    .bind(group.is_parallel)
    .bind(position)
    .bind(&group.name)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// Returns the positions and the retry numbers of a group's resends, in order of position.
pub async fn resends(
    connection: &mut Connection,
    group: &Group,
    log_id: i64,
    limit: i64,
) -> Result<Vec<(i64, i64)>, Error> {
    let rows = sqlx::query(
        "SELECT position, retry_number
         FROM resends
         WHERE log_id = $1 AND is_parallel = $2 AND group_name = $3
         ORDER BY position
         LIMIT $4",
    )
    .bind(log_id)
    .bind(group.is_parallel)
    .bind(&group.name)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("position")?, row.try_get("retry_number")?))).collect()
}

pub async fn delete_resend(connection: &mut Connection, turn: &Turn, position: i64) -> Result<(), Error> {
    sqlx::query("DELETE FROM resends WHERE log_id = $1 AND is_parallel = $2 AND group_name = $3 AND position = $4")
        .bind(turn.log_id)
        .bind(turn.group.is_parallel)
        .bind(&turn.group.name)
        .bind(position)
        .execute(connection)
        .await?;
    Ok(())
}
