use std::ops::{Add, Neg, Sub};

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::event::Log;

/// The log and the id of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromRow)]
pub struct ArchiveKey {
    pub log_id: i64,
    pub archive_id: Uuid,
}

impl ArchiveKey {
    pub fn new(log_id: i64, archive_id: Uuid) -> ArchiveKey {
        ArchiveKey { log_id, archive_id }
    }
}

/// Takes a log from the columns `tenant` and `topic`.
impl FromRow<'_, PgRow> for Log {
    fn from_row(row: &PgRow) -> Result<Log, sqlx::Error> {
        let (tenant, topic): (String, String) = (row.try_get("tenant")?, row.try_get("topic")?);
        Log::new(tenant, topic)
            .map_err(|invalid| sqlx::Error::ColumnDecode { index: "tenant, topic".into(), source: invalid.into() })
    }
}

/// The amounts of archived events, or changes of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub events: i64,
    pub json_bytes: i64,
    pub object_bytes: i64,
}

impl Add for Amounts {
    type Output = Amounts;

    fn add(self, other: Amounts) -> Amounts {
        Amounts {
            events: self.events + other.events,
            json_bytes: self.json_bytes + other.json_bytes,
            object_bytes: self.object_bytes + other.object_bytes,
        }
    }
}

impl Neg for Amounts {
    type Output = Amounts;

    fn neg(self) -> Amounts {
        Amounts { events: -self.events, json_bytes: -self.json_bytes, object_bytes: -self.object_bytes }
    }
}

impl Sub for Amounts {
    type Output = Amounts;

    fn sub(self, other: Amounts) -> Amounts {
        self + -other
    }
}
