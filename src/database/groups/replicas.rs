//! Replicas: processes with subscribers, each with a lease that it renews. The lease of a process that died expires.

use std::time::Duration;

use uuid::Uuid;

use crate::database::{Connection, Error};

/// The names of groups, by mode.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupNames {
    pub normal: Vec<String>,
    pub parallel: Vec<String>,
}

/// Adds a replica, and renews it if it is there: an earlier attempt may have been committed without an answer.
pub async fn insert(connection: &mut Connection, id: Uuid, groups: &GroupNames, term: Duration) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO replicas (id, expires_at, group_names, parallel_group_names)
         VALUES ($1, clock_timestamp() + make_interval(secs => $2), $3, $4)
         ON CONFLICT ON CONSTRAINT replicas_pkey DO UPDATE SET expires_at = EXCLUDED.expires_at",
    )
    .bind(id)
    .bind(term.as_secs_f64())
    .bind(&groups.normal)
    .bind(&groups.parallel)
    .execute(connection)
    .await?;
    Ok(())
}

/// Returns false if the lease has expired: others may own the replica's progress by now.
pub async fn renew(connection: &mut Connection, id: Uuid, groups: &GroupNames, term: Duration) -> Result<bool, Error> {
    let renewed = sqlx::query(
        "UPDATE replicas
         SET expires_at = clock_timestamp() + make_interval(secs => $2), group_names = $3, parallel_group_names = $4
         WHERE id = $1 AND expires_at > clock_timestamp()",
    )
    .bind(id)
    .bind(term.as_secs_f64())
    .bind(&groups.normal)
    .bind(&groups.parallel)
    .execute(connection)
    .await?;
    Ok(renewed.rows_affected() == 1)
}

/// Deletes the replicas whose lease has expired, and returns how many there were.
pub async fn delete_dead(connection: &mut Connection) -> Result<u64, Error> {
    let deleted = sqlx::query("DELETE FROM replicas WHERE expires_at < clock_timestamp()").execute(connection).await?;
    Ok(deleted.rows_affected())
}

pub async fn delete(connection: &mut Connection, id: Uuid) -> Result<(), Error> {
    sqlx::query("DELETE FROM replicas WHERE id = $1").bind(id).execute(connection).await?;
    Ok(())
}

/// Returns whether another live replica has subscribers of the group.
pub async fn others_subscribe(
    connection: &mut Connection,
    id: Uuid,
    group_name: &str,
    is_parallel: bool,
) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM replicas
             WHERE id <> $1 AND expires_at > clock_timestamp()
               AND $2 = ANY(CASE WHEN $3 THEN parallel_group_names ELSE group_names END)
         )",
    )
    .bind(id)
    .bind(group_name)
    .bind(is_parallel)
    .fetch_one(connection)
    .await?)
}
