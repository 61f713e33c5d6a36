//! Personal fields: makes a plain field personal, and invalidates all fields that bear a GDPR id.
//!
//! Both are edits, and as safe: one transaction changes hot rows and snapshots, lays the change over the archived
//! events, and writes the ledger. The transaction asks the lookup pages which members may be concerned, and does not
//! ask S3, so the answer comes at once whatever it touches. The rewrites follow.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::database::catalog::members;
use crate::database::ledger::edits::{self, Edit, EditKind};
use crate::database::ledger::introduced;
use crate::database::log::rows::{self, LogRow};
use crate::database::log::{events, snapshots};
use crate::database::{self, Transaction, lookups};
use crate::event::{Change, Event, GdprField, Invalid, Json, Log, PositionRange, pointer_to};
use crate::store::editing::edit::{Changed, EDIT_ATTEMPTS, catalog_changed, insert_hot_line, line, moved_all_the_time};
use crate::store::{ATTEMPTS, Error, Store};

impl Store {
    /// Makes a plain field of an event or of a snapshot personal, with a GDPR id of its own. A field that is personal
    /// already stays as it is.
    pub async fn introduce_gdpr(&self, log: &Log, event_id: &str, field: &str, default: Json) -> Result<(), Error> {
        let gdpr = GdprField::new(Uuid::now_v7().to_string(), default)?;
        let change = Change::Introduce { field: field.to_owned(), gdpr };
        for _ in 0..EDIT_ATTEMPTS {
            let Some(found) = self.find(log, &[event_id.to_owned()]).await?.pop() else {
                return self.introduce_gdpr_on_snapshot(log, event_id, field, &change).await;
            };
            let Some(event) = introduced(&found.event, field, &change)? else { return Ok(()) };
            self.check_growth(&found.event, &event)?;
            let line = Edit {
                position: Some(event.position),
                changed: vec![pointer_to("", field)],
                ..line(EditKind::Introduce, &found.log_row, event_id)
            };
            let changed = Changed { event, change: change.clone(), line };
            if self.change(&found, changed).await?.is_some() {
                return Ok(());
            }
        }
        Err(moved_all_the_time(log, event_id))
    }

    async fn introduce_gdpr_on_snapshot(
        &self,
        log: &Log,
        event_id: &str,
        field: &str,
        change: &Change,
    ) -> Result<(), Error> {
        let unknown = || Invalid(format!("unable to find event {event_id:?}"));
        let mut transaction = self.database.begin().await?;
        let log_row = rows::find(&mut transaction, log).await?.ok_or_else(unknown)?;
        let old = snapshots::find(&mut transaction, log_row.id, event_id).await?.ok_or_else(unknown)?;
        let Some(new) = introduced(&old, field, change)? else { return Ok(()) };
        self.check_growth(&old, &new)?;
        if !snapshots::replace(&mut transaction, log_row.id, &old, &new).await? {
            return Err(moved_all_the_time(log, event_id));
        }
        Ok(database::commit(transaction).await?)
    }

    /// Makes every field of this log that bears the GDPR id show its default from now on, in hot and archived events
    /// and in snapshots. Events that are published with the id later are not concerned. If no field bears the id,
    /// nothing happens.
    pub async fn invalidate_gdpr(&self, log: &Log, gdpr_id: &str) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            match self.try_invalidate(log, gdpr_id).await {
                Err(Error::GaveWay(_)) => {}
                outcome => return outcome,
            }
        }
        Err(moved_all_the_time(log, gdpr_id))
    }

    async fn try_invalidate(&self, log: &Log, gdpr_id: &str) -> Result<(), Error> {
        let change = Change::Invalidate { gdpr_id: gdpr_id.to_owned() };
        let mut transaction = self.database.begin_job().await?;
        let Some(log_row) = rows::find(&mut transaction, log).await? else { return Ok(()) };
        let line = || line(EditKind::Invalidate, &log_row, gdpr_id);
        // The events' rows are locked before the log's row, in the order in which an archive run locks them.
        let mut changed = invalidate_hot(&mut transaction, log_row.id, gdpr_id, &change).await?;
        changed += invalidate_snapshots(&mut transaction, log_row.id, gdpr_id, &change).await?;
        // Archives that became live before this are seen below. One that is on its way does not become live, because it
        // finds the edit counter raised.
        let Some(sequence) = rows::bump_edit_counter(&mut transaction, &log_row).await? else {
            return Err(catalog_changed(log));
        };
        let members = self.members_with_gdpr_id(&mut transaction, &log_row, gdpr_id).await?;
        if changed == 0 && members.is_empty() {
            return Ok(());
        }
        if changed > 0 {
            insert_hot_line(&mut transaction, Edit { sequence, ..line() }).await?;
        }
        for (archive_id, spans) in &members {
            let line = Edit { sequence, archive_id: Some(*archive_id), ..line() };
            edits::insert(&mut transaction, &line).await?;
            for span in spans {
                edits::insert_pending(&mut transaction, &line, *span, &change).await?;
            }
        }
        database::commit(transaction).await?;
        metrics::counter!("coldstream_edits_total").increment(1);
        if !members.is_empty() {
            self.rewrite_wanted.notify_one();
        }
        Ok(())
    }

    /// Returns, by archive, the positions at which fields with this id may be that no invalidation was laid over yet.
    async fn members_with_gdpr_id(
        &self,
        transaction: &mut Transaction,
        log_row: &LogRow,
        gdpr_id: &str,
    ) -> Result<BTreeMap<Uuid, Vec<PositionRange>>, Error> {
        let mut spans: BTreeMap<Uuid, Vec<PositionRange>> = BTreeMap::new();
        let key = self.hash_key(transaction).await?;
        let keys = lookups::members_with_gdpr_id(transaction, log_row.id, key, gdpr_id).await?;
        for member in members::by_key(transaction, log_row.id, &keys).await? {
            spans.entry(member.archive_id).or_default().push(member.positions());
        }
        if let Some((archive_id, position)) = introduced::find(transaction, log_row.id, gdpr_id).await? {
            spans.entry(archive_id).or_default().push(PositionRange::one(position));
        }
        let done: BTreeSet<Uuid> =
            edits::archives_invalidated(transaction, log_row.id, gdpr_id).await?.into_iter().collect();
        spans.retain(|archive_id, _| !done.contains(archive_id));
        Ok(spans)
    }
}

/// Returns the event with the field made personal, or `None` if the field is personal already.
fn introduced(event: &Event, field: &str, change: &Change) -> Result<Option<Event>, Invalid> {
    if !event.payload.members().iter().any(|member| member.key().is_ok_and(|key| key == field)) {
        return Err(Invalid(format!("the event {:?} has no field {field:?}", event.id)));
    }
    if event.gdpr.contains_key(field) {
        return Ok(None);
    }
    let mut event = event.clone();
    change.apply(&mut event);
    Ok(Some(event))
}

async fn invalidate_hot(
    transaction: &mut Transaction,
    log_id: i64,
    gdpr_id: &str,
    change: &Change,
) -> Result<usize, Error> {
    let events = events::lock_hot_by_gdpr_id(transaction, log_id, gdpr_id).await?;
    for old in &events {
        let mut new = old.clone();
        change.apply(&mut new);
        events::replace(transaction, log_id, old, &new).await?;
    }
    Ok(events.len())
}

async fn invalidate_snapshots(
    transaction: &mut Transaction,
    log_id: i64,
    gdpr_id: &str,
    change: &Change,
) -> Result<usize, Error> {
    let snapshots = snapshots::lock_by_gdpr_id(transaction, log_id, gdpr_id).await?;
    for old in &snapshots {
        let mut new = old.clone();
        change.apply(&mut new);
        snapshots::replace(transaction, log_id, old, &new).await?;
    }
    Ok(snapshots.len())
}
