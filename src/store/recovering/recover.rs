//! Makes a database know its bucket again, if it is empty, or was restored to an earlier time.
//!
//! Objects are read whole, one after the other, a member at a time. One transaction writes everything that an object
//! turns out to hold, lookup pages included. So at whatever moment the process dies, an archive is recovered or
//! untouched, and the next run goes on where this one ended. Each archive is recovered under its log's lease, so that
//! no archiver works beside it. Pending edits, and objects that intents of that time name, are left to the jobs that
//! handle them otherwise.

use std::collections::HashSet;

use uuid::Uuid;

use crate::bucket::{self, ListedArchive, Strangers, object_key};
use crate::database;
use crate::database::catalog::archives::Archive;
use crate::database::log::rows::{self, LogRow};
use crate::event::Log;
use crate::store::recovering::reconcile::{Doubtful, Standing};
use crate::store::recovering::take_over::{TakeOver, TakenOver};
use crate::store::{Error, GaveWay, Store};

/// The results of a recovery, and the objects that it could not recover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    pub archives: i64,
    pub events: i64,
    /// The logs that have positions whose events are nowhere any more, in the order of their names.
    pub gaps: Vec<RecoveredLog>,
    /// The archives whose objects are gone, and which left the catalog for an archive that was taken over.
    pub superseded: Vec<Superseded>,
    pub unrecovered: Vec<Unrecovered>,
    pub strangers: Strangers,
    /// The number of archives of logs that another writer was at work on: run the recovery again later.
    pub put_off: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredLog {
    pub log: Log,
    pub head_position: i64,
    /// The number of positions of events that were deleted once they were consumed, or lost with the database.
    pub gone: i64,
}

/// An archive that was restored, in part or whole, after the database's last knowledge of it. Events of the archive
/// that are nowhere now went into rows, and are lost with them: [`Store::nowhere`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    pub log: Log,
    pub archive_id: Uuid,
    pub first_position: i64,
    pub last_position: i64,
}

/// An object that was not recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrecovered {
    pub object: String,
    pub why: String,
}

impl Store {
    /// Recovers everything in the bucket that the database does not know. It tells `progress` how many events were read
    /// so far.
    pub async fn recover(&self, mut progress: impl FnMut(i64)) -> Result<Recovery, Error> {
        self.succeed().await?;
        let Doubtful { archives, strangers, .. } = self.doubtful().await?;
        let mut recovery = Recovery { strangers, ..Recovery::default() };
        let mut doubtful = self.standings_of(archives).await?;
        // Archives that the database knows come first, because others are compared with them.
        doubtful.sort_by_key(|(_, standing)| *standing == Standing::Unknown);
        self.forget_set_aside().await?;
        let mut put_off = HashSet::new();
        for (listed, standing) in doubtful {
            let outcome = match standing {
                Standing::Known | Standing::Intended => continue,
                _ if put_off.contains(&listed.folder) => Err(GaveWay::LeaseHeld.into()),
                _ => self.recover_object(&listed).await,
            };
            match outcome {
                Ok(Some((log, TakenOver { events, superseded }))) => {
                    recovery.archives += 1;
                    recovery.events += events;
                    recovery.superseded.extend(superseded.into_iter().map(|archive| {
                        let Archive { id: archive_id, first_position, last_position, .. } = archive;
                        Superseded { log: log.clone(), archive_id, first_position, last_position }
                    }));
                    progress(recovery.events);
                }
                Ok(None) => {}
                Err(Error::Damaged(why) | Error::ObjectRefused(why)) => {
                    self.set_aside(&listed, standing, &why).await?;
                    recovery.unrecovered.push(Unrecovered { object: listed.key, why });
                }
                Err(Error::GaveWay(why)) => {
                    tracing::info!(object = listed.key, %why, "recovering is put off");
                    recovery.put_off += 1;
                    put_off.insert(listed.folder);
                }
                Err(error) => return Err(error),
            }
        }
        recovery.unrecovered.extend(self.missing_objects().await?);
        recovery.gaps = self.gaps().await?;
        Ok(recovery)
    }

    /// Recovers one object. Returns `None` if there was nothing to do.
    async fn recover_object(&self, listed: &ListedArchive) -> Result<Option<(Log, TakenOver)>, Error> {
        let mut scan = self.bucket()?.scan_of(&listed.key).await?;
        let said = &scan.head().said;
        if said.archive_id != Some(listed.archive_id) {
            return Err(scan.damaged("it does not say that it is this archive").into());
        }
        let metadata = said.metadata().map_err(|why| scan.damaged(why))?;
        let log = scan.log().await?;
        if object_key(&log, listed.archive_id) != listed.key {
            return Err(scan.damaged(format!("its events are of {log}")).into());
        }
        let log_row = self.log_row_of(&log).await?;
        let taking = async |lease| {
            TakeOver { store: self, log_row: &log_row, listed, metadata: &metadata, lease }.run(scan).await
        };
        let taken = self.with_lease(log_row.id, taking).await?;
        Ok(taken.ok_or(GaveWay::LeaseHeld)?.map(|taken| (log, taken)))
    }

    pub(super) async fn log_row_of(&self, log: &Log) -> Result<LogRow, Error> {
        let mut transaction = self.database.begin_job().await?;
        rows::make(&mut transaction, log).await?;
        let log_row = rows::find(&mut transaction, log).await?;
        database::commit(transaction).await?;
        log_row.ok_or_else(|| GaveWay::Moved(format!("the log {log}")).into())
    }

    /// Returns the archives of the catalog whose objects are missing.
    async fn missing_objects(&self) -> Result<Vec<Unrecovered>, Error> {
        let known = self.known_objects().await?;
        let mut listed: Vec<String> =
            self.bucket()?.list_archives().await?.archives.into_iter().map(|listed| listed.key).collect();
        listed.sort_unstable();
        let mut missing: Vec<Unrecovered> = Vec::new();
        for (object, known) in known {
            if known.iter().all(|known| known.etag.is_none()) || listed.binary_search(&object).is_ok() {
                continue;
            }
            match self.bucket()?.head_of(&object).await {
                Ok(_) => {}
                Err(bucket::Error::NotFound { .. }) => {
                    missing.push(Unrecovered { object, why: "the catalog knows it, and it is not there".into() });
                }
                Err(error @ bucket::Error::ObjectRefused { .. }) => {
                    missing.push(Unrecovered { object, why: format!("it is not in the list: {error}") });
                }
                Err(error) => return Err(error.into()),
            }
        }
        missing.sort_by(|one, other| one.object.cmp(&other.object));
        Ok(missing)
    }

    async fn gaps(&self) -> Result<Vec<RecoveredLog>, Error> {
        let mut view = self.database.begin_job().await?;
        let log_rows = rows::all(&mut view).await?;
        let gaps = log_rows.into_iter().filter(|log_row| log_row.deleted_count > 0).map(|log_row| {
            let LogRow { log, head_position, deleted_count: gone, .. } = log_row;
            RecoveredLog { log, head_position, gone }
        });
        Ok(gaps.collect())
    }
}
