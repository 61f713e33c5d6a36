use std::time::Duration;

use uuid::Uuid;

use crate::database::{Connection, Error};

/// The right to write archives of one topic, until it expires or somebody else takes it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    pub log_id: i64,
    pub holder: Uuid,
    pub epoch: i64,
}

/// `None` while another holder's lease has not expired. The epoch that comes with it has never been given before.
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

/// False if somebody else has taken it since.
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

/// Locks the topic's row until the transaction ends, and gives its edit counter if the lease still is the newest one.
pub async fn check(connection: &mut Connection, lease: &Lease) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar("SELECT edit_counter FROM logs WHERE id = $1 AND lease_epoch = $2 FOR UPDATE")
        .bind(lease.log_id)
        .bind(lease.epoch)
        .fetch_optional(connection)
        .await?)
}

/// Lets others take it at once.
pub async fn release(connection: &mut Connection, lease: &Lease) -> Result<(), Error> {
    sqlx::query("UPDATE logs SET lease_holder = NULL, lease_expires_at = NULL WHERE id = $1 AND lease_epoch = $2")
        .bind(lease.log_id)
        .bind(lease.epoch)
        .execute(connection)
        .await?;
    Ok(())
}
