use sqlx::FromRow;
use uuid::Uuid;

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
