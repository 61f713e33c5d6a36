//! Verifies archives in the background, one after the other. The archive whose last turn is the longest ago is next.
//!
//! The catalog records the turns, so replicas share the work, and a process that starts goes on where another one
//! ended. A turn counts once the archive was read. If S3 was away, the archive is due again at once; if the process
//! died, it is due a day later.

use time::{Duration, OffsetDateTime};

use crate::database::catalog::scrubs;
use crate::database::log::rows;
use crate::database::{self, ArchiveKey};
use crate::store::archives::contents::Pacing;
use crate::store::checking::verify::Seen;
use crate::store::{Error, Store};

/// The shortest time between two turns of an archive.
const REST: Duration = Duration::days(7);
/// The longest time that a turn lasts: nobody reads an archive for so long, so the process is dead.
const TURN_MAX: Duration = Duration::days(1);

impl Store {
    /// Verifies the next archive, and reports its findings in the log and the metrics. Returns false if every archive
    /// had its turn a short time ago.
    pub async fn scrub(&self, pace: Pacing<'_>) -> Result<bool, Error> {
        let mut transaction = self.database.begin_job().await?;
        let now = OffsetDateTime::now_utc();
        let taken = scrubs::begin(&mut transaction, now - REST, now - TURN_MAX).await?;
        let Some(ArchiveKey { log_id, archive_id }) = taken else { return Ok(false) };
        let log_row = rows::by_id(&mut transaction, log_id).await?;
        database::commit(transaction).await?;
        let counted = |bytes: i64| {
            metrics::counter!("coldstream_scrub_bytes_total").increment(bytes as u64);
            pace(bytes)
        };
        let seen = self.verify_archive(&log_row, archive_id, &counted).await;
        let mut transaction = self.database.begin_job().await?;
        scrubs::end(&mut transaction, ArchiveKey::new(log_id, archive_id), seen.is_ok()).await?;
        database::commit(transaction).await?;
        let found = match seen? {
            Seen::Read(_, found) => found,
            Seen::Unreadable(what) => vec![what],
            Seen::Gone => Vec::new(),
        };
        metrics::counter!("coldstream_scrub_archives_total").increment(1);
        metrics::counter!("coldstream_scrub_findings_total").increment(found.len() as u64);
        for what in found {
            tracing::error!(log = %log_row.log, %archive_id, what, "a scrub found something");
        }
        Ok(true)
    }
}
