//! Changes or erases fields of one event, wherever it is.
//!
//! One transaction writes the ledger and either the hot row or a pending edit. From its commit on, every read shows the
//! new value. If the process dies before the commit, nothing happened; if it dies after it, the next look for pending
//! edits makes up for the rewrite.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::catalog::intents;
use crate::database::ledger::edits::{self, Edit, EditKind};
use crate::database::ledger::introduced;
use crate::database::log::events;
use crate::database::log::rows::{self, LogRow};
use crate::database::{self, Transaction};
use crate::event::{Change, Event, Invalid, Json, Log, Patch, PositionRange};
use crate::store::log::read::find::Found;
use crate::store::{Error, GaveWay, Store};

/// The number of times that a change is tried while other changes of the same event come first.
pub const EDIT_ATTEMPTS: usize = 100;
/// The most bytes of each text that goes into the ledger.
const LEDGER_BYTES_MAX: usize = 1_000;

#[derive(Debug, Clone)]
pub struct EditRequest {
    pub patch: Patch,
    /// The actor, the reason and the ticket are kept for ever, so they must hold no personal data.
    pub actor: String,
    pub reason: String,
    pub ticket: String,
}

#[derive(Debug, Clone)]
pub struct EditOutcome {
    /// The event as every reader sees it from now on.
    pub event: Event,
    /// `None` if the patch changes nothing.
    pub edit: Option<Edit>,
    /// JSON pointers that the patch names and the payload does not have.
    pub missing: Vec<String>,
}

/// A change of one event, and the event after it.
pub struct Changed {
    pub event: Event,
    pub change: Change,
    /// The line of the ledger about it.
    pub line: Edit,
}

impl Store {
    /// Patches an event. Returns `None` if there is no such event.
    pub async fn edit(&self, log: &Log, event_id: &str, request: &EditRequest) -> Result<Option<EditOutcome>, Error> {
        check_ledger(request)?;
        for _ in 0..EDIT_ATTEMPTS {
            let Some(found) = self.find(log, &[event_id.to_owned()]).await?.pop() else { return Ok(None) };
            let patched = request.patch.apply(&found.event.payload);
            let missing = patched.missing.clone();
            if patched.changed.is_empty() {
                return Ok(Some(EditOutcome { event: found.event, edit: None, missing }));
            }
            check_invalidated(&found.event, &patched.payload)?;
            let line = Edit {
                position: Some(found.event.position),
                changed: patched.changed,
                missing: patched.missing,
                actor: request.actor.clone(),
                reason: request.reason.clone(),
                ticket: request.ticket.clone(),
                ..line(EditKind::Patch, &found.log_row, &found.event.id)
            };
            let event = Event { payload: patched.payload, ..found.event.clone() };
            self.check_growth(&found.event, &event)?;
            let changed = Changed { event, change: Change::Patch(request.patch.clone()), line };
            if let Some((event, edit)) = self.change(&found, changed).await? {
                return Ok(Some(EditOutcome { event, edit: Some(edit), missing }));
            }
        }
        Err(moved_all_the_time(log, event_id))
    }

    /// Makes a change of one event effective. Returns `None` if the event was changed or moved meanwhile, and has to be
    /// found again.
    pub(in crate::store) async fn change(
        &self,
        found: &Found,
        changed: Changed,
    ) -> Result<Option<(Event, Edit)>, Error> {
        let outcome = self.try_change(found, changed).await;
        match outcome {
            Ok(Some(done)) => {
                metrics::counter!("coldstream_edits_total").increment(1);
                if found.archive_id.is_some() {
                    self.rewrite_wanted.notify_one();
                }
                Ok(Some(done))
            }
            Ok(None) | Err(Error::GaveWay(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn try_change(
        &self,
        Found { log_row, event: old, archive_id }: &Found,
        Changed { event, change, line }: Changed,
    ) -> Result<Option<(Event, Edit)>, Error> {
        let mut transaction = self.database.begin().await?;
        // The event's row is locked before the log's row, in the order in which an archive run locks them.
        if archive_id.is_none() && !events::replace(&mut transaction, log_row.id, old, &event).await? {
            return Ok(None);
        }
        let Some(sequence) = rows::bump_edit_counter(&mut transaction, log_row).await? else { return Ok(None) };
        // Another change came first, so the event is not what was read.
        let place = (log_row.id, old.position);
        if archive_id.is_some() && edits::edited_since(&mut transaction, place, log_row.edit_counter).await? {
            return Ok(None);
        }
        let line = Edit { sequence, ..line };
        let line = match *archive_id {
            None => insert_hot_line(&mut transaction, line).await?,
            Some(archive_id) => {
                let line = Edit { archive_id: Some(archive_id), ..line };
                edits::insert(&mut transaction, &line).await?;
                edits::insert_pending(&mut transaction, &line, PositionRange::one(old.position), &change).await?;
                if let Change::Introduce { gdpr, .. } = &change {
                    let place = (archive_id, old.position);
                    introduced::insert(&mut transaction, log_row.id, &gdpr.id, place).await?;
                }
                line
            }
        };
        database::commit(transaction).await?;
        Ok(Some((event, line)))
    }

    /// Returns a line of the ledger, or `None` if no edit has this id.
    pub async fn edit_by_id(&self, id: Uuid) -> Result<Option<Edit>, Error> {
        let mut view = self.database.view().await?;
        Ok(edits::find(&mut view, id).await?)
    }
}

/// Makes a line of the ledger, which still needs its sequence.
pub fn line(kind: EditKind, log_row: &LogRow, subject: &str) -> Edit {
    Edit {
        id: Uuid::now_v7(),
        log_id: log_row.id,
        sequence: 0,
        kind,
        subject: subject.to_owned(),
        position: None,
        archive_id: None,
        changed: Vec::new(),
        missing: Vec::new(),
        actor: String::new(),
        reason: String::new(),
        ticket: String::new(),
        accepted_at: OffsetDateTime::now_utc(),
        applied_at: None,
        purged_at: None,
    }
}

/// Adds a line about rows that have the new value already.
pub async fn insert_hot_line(transaction: &mut Transaction, line: Edit) -> Result<Edit, Error> {
    // An object that is on its way may hold the old value, until it is dropped.
    let is_exported = intents::has_any(transaction, line.log_id).await?;
    let applied_at = Some(line.accepted_at);
    let line = Edit { applied_at, purged_at: applied_at.filter(|_| !is_exported), ..line };
    edits::insert(transaction, &line).await?;
    Ok(line)
}

/// The error of an edit that looked for an event in rows while it was in an archive.
pub fn catalog_changed(log: &Log) -> Error {
    GaveWay::Moved(format!("an event of {log}")).into()
}

pub fn moved_all_the_time(log: &Log, what: &str) -> Error {
    Error::Unavailable(format!("{what:?} of {log} is edited or moved all the time"))
}

/// Checks that an invalidated field shows its default, or is removed: a new value could not be erased by the field's
/// GDPR id any more.
fn check_invalidated(event: &Event, payload: &Json) -> Result<(), Invalid> {
    let members = payload.members();
    for (name, field) in event.gdpr.iter().filter(|(_, field)| field.is_invalidated) {
        let value = members.iter().find(|member| member.key().is_ok_and(|key| key == *name)).map(|member| member.value);
        if value.is_some_and(|value| value != field.default.as_str()) {
            return Err(Invalid(format!("the field {name:?} was invalidated: it can be removed, and takes no value")));
        }
    }
    Ok(())
}

fn check_ledger(request: &EditRequest) -> Result<(), Error> {
    for (what, text) in [("actor", &request.actor), ("reason", &request.reason), ("ticket", &request.ticket)] {
        if text.len() > LEDGER_BYTES_MAX || text.contains('\0') {
            return Err(Invalid(format!("the {what} is longer than {LEDGER_BYTES_MAX} bytes, or contains NUL")).into());
        }
        if text.contains('@') {
            return Err(Invalid(format!("the {what} looks like an email address; it is kept for ever")).into());
        }
    }
    Ok(())
}
