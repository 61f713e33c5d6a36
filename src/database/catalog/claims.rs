//! The claims that this database has made to its bucket, and what tells it from its copies.

use sqlx::FromRow;
use uuid::Uuid;

use crate::database::{Connection, Error};

/// The values that together tell a database from its copies.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Identity {
    /// A copy has the same one.
    pub deployment_id: Uuid,
    /// The cluster's identifier since its `initdb`. A physical copy has the same one. `None` where the role may not
    /// know it.
    pub cluster: Option<i64>,
    /// The database's oid. A physical copy has the same one.
    pub database: i64,
    /// The time at which the server started, in microseconds. No other running server has all of these values. A
    /// restart changes the time, and so does the promotion of a standby; a copy has another one.
    pub instance: i64,
}

pub async fn identity(connection: &mut Connection) -> Result<Identity, Error> {
    Ok(sqlx::query_as(
        "SELECT deployment.id AS deployment_id,
             cluster_identifier() AS cluster,
             pg_database.oid::bigint AS database,
             (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS instance
         FROM deployment, pg_database
         WHERE datname = current_database()",
    )
    .fetch_one(connection)
    .await?)
}

/// Returns whether a claim was made by this database, or by the one that it was copied from.
pub async fn is_known(connection: &mut Connection, (epoch, token): (i64, Uuid)) -> Result<bool, Error> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM claims WHERE epoch = $1 AND token = $2)")
        .bind(epoch)
        .bind(token)
        .fetch_one(connection)
        .await?)
}

/// Writes down a claim that is about to be made. Its epoch is greater than every epoch of this database, and than
/// `epoch_min`. Returns `None` if another process of this database has just taken that epoch.
pub async fn insert(connection: &mut Connection, epoch_min: i64, token: Uuid) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar(
        "INSERT INTO claims (epoch, token)
         SELECT greatest(coalesce(max(epoch), 0), $1) + 1, $2 FROM claims
         ON CONFLICT DO NOTHING
         RETURNING epoch",
    )
    .bind(epoch_min)
    .bind(token)
    .fetch_optional(connection)
    .await?)
}
