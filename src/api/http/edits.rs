use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::event_document::EventDocument;
use crate::api::http::parameters::{Content, EventIdOfPath, LogOfPath, Parameters};
use crate::api::http::problem::Problem;
use crate::event::{self, Instant, Patch};
use crate::store::{Edit, EditOutcome, EditRequest, Store};

/// The result of an edit.
#[derive(Debug, Serialize, ToSchema)]
pub struct EditResponse<'a> {
    /// The event as every reader sees it from now on.
    event: EventDocument<'a>,
    /// The edit's line in the ledger; none if the patch changes nothing.
    edit: Option<EditDocument>,
    /// JSON pointers to the fields that the patch names and the payload does not have: an edit adds nothing.
    missing: &'a [String],
}

/// A line of the ledger: who changed what, when and why; never a value.
#[derive(Debug, Serialize, ToSchema)]
pub struct EditDocument {
    id: Uuid,
    /// `patch`, `introduce`, `invalidate` or `rename`.
    kind: &'static str,
    /// The subject of the edit: the id of an event, a GDPR id, or the name that a type had.
    subject: String,
    /// The position of the event; none for an edit of any number of events.
    position: Option<i64>,
    /// JSON pointers to the changed fields of the payload; for a renamed type, its new name.
    changed: Vec<String>,
    missing: Vec<String>,
    actor: String,
    reason: String,
    ticket: String,
    /// The time from which every reader sees the new value.
    accepted_at: String,
    /// The time at which the value had been replaced where it is stored; none while an object is still to be rewritten.
    applied_at: Option<String>,
    /// The time at which no version of an object was left that bears the old value.
    purged_at: Option<String>,
}

impl From<&Edit> for EditDocument {
    fn from(edit: &Edit) -> EditDocument {
        EditDocument {
            id: edit.id,
            kind: edit.kind.as_str(),
            subject: edit.subject.clone(),
            position: edit.position,
            changed: edit.changed.clone(),
            missing: edit.missing.clone(),
            actor: edit.actor.clone(),
            reason: edit.reason.clone(),
            ticket: edit.ticket.clone(),
            accepted_at: rfc3339(edit.accepted_at),
            applied_at: edit.applied_at.map(rfc3339),
            purged_at: edit.purged_at.map(rfc3339),
        }
    }
}

fn rfc3339(moment: OffsetDateTime) -> String {
    Instant::from_unix_nanos(moment.unix_timestamp_nanos() as i64).to_rfc3339()
}

/// Edit the payload of an event
///
/// A JSON Merge Patch (RFC 7396) of the event, in which only `payload` may be named: `{"payload": {"name": "erased"}}`;
/// null removes a field. Fields that are not there are reported, not made. Once the call is answered, every reader sees
/// the new value, wherever the event is stored; an archived event's object is rewritten in place soon after.
#[utoipa::path(
    patch, path = "/v1/topics/{topic}/events/{event_id}", tag = "edits",
    params(("topic" = String, Path), ("event_id" = String, Path),
           ("tenant" = Option<String>, Query, description = "none is the global tenant"),
           ("actor" = Option<String>, Query, description = "who edits; kept for ever, as are reason and ticket"),
           ("reason" = Option<String>, Query), ("ticket" = Option<String>, Query)),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, body = EditResponse), (status = 400, body = Problem), (status = 404, body = Problem),
              (status = 422, body = Problem), (status = 503, body = Problem)),
)]
pub async fn edit(
    State(store): State<Arc<Store>>,
    LogOfPath(log): LogOfPath,
    EventIdOfPath(event_id): EventIdOfPath,
    parameters: Parameters,
    Content(body): Content,
) -> Result<Response, Problem> {
    parameters.allow(&["tenant", "actor", "reason", "ticket"])?;
    let text = |name| parameters.one(name).map(|text| text.unwrap_or_default().to_owned());
    let request = EditRequest {
        patch: payload_patch(&body)?,
        actor: text("actor")?,
        reason: text("reason")?,
        ticket: text("ticket")?,
    };
    let outcome = store.edit(&log, &event_id, &request).await?;
    let EditOutcome { event, edit, missing } =
        outcome.ok_or_else(|| Problem::not_found(format!("there is no event {event_id:?} in {log}")))?;
    let response = EditResponse {
        event: EventDocument::new(&log, &event),
        edit: edit.as_ref().map(EditDocument::from),
        missing: &missing,
    };
    Ok(Json(response).into_response())
}

/// Returns the patch of the payload from the patch of the event.
fn payload_patch(body: &[u8]) -> Result<Patch, Problem> {
    let patch = event::Json::parse_object(std::str::from_utf8(body).map_err(Problem::invalid)?)?;
    let mut payload = None;
    for member in patch.members() {
        match member.key()?.as_ref() {
            "payload" => payload = Some(Patch::parse(member.value)?),
            name => return Err(Problem::not_editable(format!("the patch names {name:?}"))),
        }
    }
    payload.ok_or_else(|| Problem::invalid("the patch names no payload"))
}

/// Read a line of the ledger
#[utoipa::path(
    get, path = "/v1/edits/{edit_id}", tag = "edits",
    params(("edit_id" = Uuid, Path)),
    responses((status = 200, body = EditDocument), (status = 404, body = Problem)),
)]
pub async fn edit_by_id(State(store): State<Arc<Store>>, Path(edit_id): Path<String>) -> Result<Response, Problem> {
    let unknown = || Problem::not_found(format!("there is no edit {edit_id:?}"));
    let id = Uuid::parse_str(&edit_id).map_err(|_| unknown())?;
    let edit = store.edit_by_id(id).await?.ok_or_else(unknown)?;
    Ok(Json(EditDocument::from(&edit)).into_response())
}
