//! Announcements to readers of the database's change stream. An announcement appears there only if its transaction
//! commits.

use uuid::Uuid;

use crate::database::log::rows::LogRow;
use crate::database::{Connection, Error};
use crate::event::Extent;

/// The direction in which the rows of a transaction move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// The deletes move events into an archive, and end none of them.
    Archive,
    /// The inserts bring back events that were published long ago.
    Restore,
}

impl Move {
    fn prefix(self) -> &'static str {
        match self {
            Move::Archive => "coldstream.archive",
            Move::Restore => "coldstream.restore",
        }
    }
}

/// Tells readers of the database's change stream that the rows that follow in this transaction only move.
pub async fn announce(
    connection: &mut Connection,
    direction: Move,
    log_row: &LogRow,
    archive_id: Uuid,
    Extent { positions, count }: Extent,
) -> Result<(), Error> {
    sqlx::query(
        "SELECT pg_logical_emit_message(true, $1, json_build_object(
             'tenant', $2::text, 'topic', $3::text, 'archive_id', $4::uuid, 'first_position', $5::bigint,
             'last_position', $6::bigint, 'count', $7::bigint
         )::text)",
    )
    .bind(direction.prefix())
    .bind(log_row.log.tenant())
    .bind(log_row.log.topic())
    .bind(archive_id)
    .bind(positions.start)
    .bind(positions.last())
    .bind(count)
    .execute(connection)
    .await?;
    Ok(())
}
