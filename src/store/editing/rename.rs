//! Renames a type of events, in all logs of a topic.
//!
//! One transaction for each log changes hot rows, snapshots and the catalog, and lays the new name over the archived
//! events. The rewrites follow. If the process dies between two logs, the same call does the rest.

use crate::database;
use crate::database::catalog::archives;
use crate::database::ledger::edits::{self, Edit, EditKind};
use crate::database::log::rows::{self, LogRow};
use crate::database::log::{events, snapshots};
use crate::event::{Change, Log, check_type};
use crate::store::editing::edit::{catalog_changed, insert_hot_line, line, moved_all_the_time};
use crate::store::{ATTEMPTS, Error, Store};

impl Store {
    /// Renames a type. Events that are published under the old name later keep it. If no event has the type, nothing
    /// happens.
    pub async fn rename_type(&self, topic: &str, old_type: &str, new_type: &str) -> Result<(), Error> {
        Log::new("", topic)?;
        check_type(old_type)?;
        check_type(new_type)?;
        if old_type == new_type {
            return Ok(());
        }
        let mut view = self.database.view().await?;
        let log_rows = rows::named(&mut view, topic).await?;
        drop(view);
        for log_row in log_rows {
            self.rename_in(&log_row, old_type, new_type).await?;
        }
        Ok(())
    }

    async fn rename_in(&self, log_row: &LogRow, old_type: &str, new_type: &str) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            match self.try_rename(log_row, old_type, new_type).await {
                Err(Error::GaveWay(_)) => {}
                outcome => return outcome,
            }
        }
        Err(moved_all_the_time(&log_row.log, old_type))
    }

    async fn try_rename(&self, log_row: &LogRow, old_type: &str, new_type: &str) -> Result<(), Error> {
        let change = Change::Rename { old_type: old_type.to_owned(), new_type: new_type.to_owned() };
        let mut transaction = self.database.begin_job().await?;
        let log_row = rows::by_id(&mut transaction, log_row.id).await?;
        let line = || Edit { changed: vec![new_type.to_owned()], ..line(EditKind::Rename, &log_row, old_type) };
        // The events' rows are locked before the log's row, in the order in which an archive run locks them.
        let mut renamed = events::rename(&mut transaction, log_row.id, old_type, new_type).await?;
        renamed += snapshots::rename(&mut transaction, log_row.id, old_type, new_type).await?;
        let Some(sequence) = rows::bump_edit_counter(&mut transaction, &log_row).await? else {
            return Err(catalog_changed(&log_row.log));
        };
        let archives = archives::rename(&mut transaction, log_row.id, old_type, new_type).await?;
        if renamed == 0 && archives.is_empty() {
            return Ok(());
        }
        if renamed > 0 {
            insert_hot_line(&mut transaction, Edit { sequence, ..line() }).await?;
        }
        for (archive_id, span) in &archives {
            let line = Edit { sequence, archive_id: Some(*archive_id), ..line() };
            edits::insert(&mut transaction, &line).await?;
            edits::insert_pending(&mut transaction, &line, *span, &change).await?;
        }
        database::commit(transaction).await?;
        metrics::counter!("coldstream_edits_total").increment(1);
        if !archives.is_empty() {
            self.rewrite_wanted.notify_one();
        }
        Ok(())
    }
}
