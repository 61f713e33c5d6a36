//! The lease of a log: only its newest holder can commit what it wrote. The lease of a process that died expires.

use std::time::Duration;

use uuid::Uuid;

use crate::database::{Connection, Error};

/// The right to write archives of one log, until the lease expires and somebody else takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    pub log_id: i64,
    pub holder: Uuid,
    pub epoch: i64,
}

/// Takes the lease, with an epoch that no holder had before. Returns `None` while another holder's lease has not
/// expired.
pub async fn take(
    connection: &mut Connection,
    log_id: i64,
    holder: Uuid,
    term: Duration,
) -> Result<Option<Lease>, Error> {
    let epoch: Option<i64> = sqlx::query_scalar(
        "UPDATE logs
         SET lease_holder = $2,
             lease_expires_at = clock_timestamp() + make_interval(secs => $3),
             lease_epoch = lease_epoch + 1
         WHERE id = $1 AND (lease_holder IS NULL OR lease_holder = $2 OR lease_expires_at < clock_timestamp())
         RETURNING lease_epoch",
    )
    .bind(log_id)
    .bind(holder)
    .bind(term.as_secs_f64())
    .fetch_optional(connection)
    .await?;
    Ok(epoch.map(|epoch| Lease { log_id, holder, epoch }))
}

/// Returns false if somebody else has taken the lease since.
pub async fn renew(connection: &mut Connection, lease: &Lease, term: Duration) -> Result<bool, Error> {
    let renewed = sqlx::query(
        "UPDATE logs
         SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
         WHERE id = $1 AND lease_epoch = $2",
    )
    .bind(lease.log_id)
    .bind(lease.epoch)
    .bind(term.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(renewed.rows_affected() == 1)
}

/// Locks the log's row until the transaction ends, and returns the log's edit counter if the lease still is the newest
/// one.
pub async fn check(connection: &mut Connection, lease: &Lease) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar("SELECT edit_counter FROM logs WHERE id = $1 AND lease_epoch = $2 FOR UPDATE")
        .bind(lease.log_id)
        .bind(lease.epoch)
        .fetch_optional(connection)
        .await?)
}

/// Lets others take the lease at once.
pub async fn release(connection: &mut Connection, lease: &Lease) -> Result<(), Error> {
    sqlx::query("UPDATE logs SET lease_holder = NULL, lease_expires_at = NULL WHERE id = $1 AND lease_epoch = $2")
        .bind(lease.log_id)
        .bind(lease.epoch)
        .execute(connection)
        .await?;
    Ok(())
}
