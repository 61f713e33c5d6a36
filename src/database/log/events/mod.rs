//! Hot events: the rows of one table.

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::database::Error;
use crate::event::{Event, Instant, Json, Metadata};

/// The columns of an event, except its position.
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

// These modules use the macros, so they come after them.
mod adding;
mod copying;
mod editing;
mod exporting;
mod figures;
mod moving;
mod reading;

pub use adding::{append, append_many, insert};
pub use editing::{lock_hot, lock_hot_by_gdpr_id, rename, replace};
pub use exporting::{ExportedRow, export};
pub use figures::{collect_statistics, hot_positions, table_bytes};
pub use moving::{delete, eligible_batch};
pub use reading::{
    by_ids, count_between, first, first_not_hot, has_any, last, positions_of_correlation, range, range_bytes,
};

/// Makes an event from the columns of `select_events!`, in their order.
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

/// The bytes of a text as they came over the wire; Postgres has checked that they are UTF-8.
fn raw_bytes(row: &PgRow, column: usize) -> Result<Bytes, Error> {
    let value = row.try_get_raw(column)?;
    let bytes = value.as_bytes().map_err(|error| Error::Damaged(error.to_string()))?;
    Ok(Bytes::copy_from_slice(bytes))
}
