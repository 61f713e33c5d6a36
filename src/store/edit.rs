//! Changing or erasing fields of one event, wherever it is.
//!
//! One transaction writes the ledger and either the hot row or a pending edit; from its commit on every read shows the
//! new value. If the process dies before it, nothing happened; after it, the rewrite is made up for by whoever looks
//! for pending edits next.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::database::{self, Edit};
use crate::event::{Event, Invalid, Log, Patch, Patched};
use crate::store::find::Found;
use crate::store::{Error, Store};

/// How often an edit is tried that others of the same event come before.
const EDIT_ATTEMPTS: usize = 100;
/// Bytes, at most, of each text that goes into the ledger.
const LEDGER_BYTES_MAX: usize = 1_000;

#[derive(Debug, Clone)]
pub struct EditRequest {
    pub patch: Patch,
    /// Who, why, and by which ticket. They are kept for ever: personal data do not belong there.
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

impl Store {
    /// `None` if there is no such event.
    pub async fn edit(&self, log: &Log, event_id: &str, request: &EditRequest) -> Result<Option<EditOutcome>, Error> {
        check_ledger(request)?;
        for _ in 0..EDIT_ATTEMPTS {
            let Some(found) = self.find(log, &[event_id.to_owned()]).await?.pop() else { return Ok(None) };
            let patched = request.patch.apply(&found.event.payload);
            if patched.changed.is_empty() {
                return Ok(Some(EditOutcome { event: found.event, edit: None, missing: patched.missing }));
            }
            match self.try_edit(&found, &patched, request).await {
                Ok(Some(edit)) => {
                    metrics::counter!("coldstream_edits_total").increment(1);
                    if found.archive_id.is_some() {
                        self.rewrite_wanted.notify_one();
                    }
                    let event = Event { payload: patched.payload, ..found.event };
                    return Ok(Some(EditOutcome { event, edit: Some(edit), missing: patched.missing }));
                }
                // It was edited or moved meanwhile.
                Ok(None) | Err(Error::GaveWay(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unavailable(format!("the event {event_id:?} of {log} is edited or moved all the time")))
    }

    /// `None` if the event is not where or what it was.
    async fn try_edit(&self, found: &Found, patched: &Patched, request: &EditRequest) -> Result<Option<Edit>, Error> {
        let Found { topic, event, archive_id } = found;
        let mut transaction = self.database.begin().await?;
        // The row before the topic: in the order in which an archive run takes them.
        let is_there = match archive_id {
            None => {
                let place = (topic.id, event.position);
                database::update_payload(&mut transaction, place, &event.payload, &patched.payload).await?
            }
            Some(_) => true,
        };
        let sequence = database::bump_edit_counter(&mut transaction, topic.id).await?;
        // Another edit came first: what was read is not what is there any more.
        let place = (topic.id, event.position);
        if archive_id.is_some() && database::edited_since(&mut transaction, place, topic.edit_counter).await? {
            return Ok(None);
        }
        let now = OffsetDateTime::now_utc();
        let is_exported = archive_id.is_none() && database::has_intents(&mut transaction, topic.id).await?;
        let edit = Edit {
            id: Uuid::now_v7(),
            topic_id: topic.id,
            sequence,
            position: event.position,
            event_id: event.id.clone(),
            archive_id: *archive_id,
            changed: patched.changed.clone(),
            missing: patched.missing.clone(),
            actor: request.actor.clone(),
            reason: request.reason.clone(),
            ticket: request.ticket.clone(),
            accepted_at: now,
            applied_at: archive_id.is_none().then_some(now),
            // An object that is on its way may hold the old value, until it is dropped.
            purged_at: (archive_id.is_none() && !is_exported).then_some(now),
        };
        database::insert_edit(&mut transaction, &edit).await?;
        if let Some(archive_id) = *archive_id {
            database::insert_pending_edit(&mut transaction, &edit, archive_id, &request.patch).await?;
        }
        if !is_there {
            return Ok(None);
        }
        database::commit(transaction).await?;
        Ok(Some(edit))
    }

    /// A line of the ledger; `None` if there is no edit of this id.
    pub async fn edit_by_id(&self, id: Uuid) -> Result<Option<Edit>, Error> {
        let mut snapshot = self.database.snapshot().await?;
        Ok(database::edit(&mut snapshot, id).await?)
    }
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
