//! Broadcasts: events for every subscriber that is connected now, sent at once, in no order, and kept nowhere. A
//! broadcast may be lost if a process dies.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::database;
use crate::database::groups::notices;
use crate::event::{Event, Instant, Invalid, Json, Log, Metadata, NewEvent};
use crate::store::subscribe::notices::Word;
use crate::store::{Error, Store};

/// A broadcast as one replica stores it for the others.
#[derive(Serialize, Deserialize)]
struct Laid {
    tenant: String,
    topic: String,
    id: String,
    stream: String,
    event_type: String,
    reason: String,
    raised_at: i64,
    correlation_id: String,
    causation_id: String,
    user_id: String,
    deployment_id: i64,
    payload: Box<RawValue>,
    gdpr: Option<String>,
}

impl Store {
    /// Sends events to every subscriber of every group, wherever it is connected.
    pub async fn broadcast(&self, events: Vec<(Log, NewEvent)>) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
        let checked = events.into_iter().map(|(log, event)| Ok((log, self.checked(event)?.at(0, now))));
        let events: Vec<(Log, Event)> = checked.collect::<Result<_, Invalid>>()?;
        let laid: Vec<Laid> = events.iter().map(|(log, event)| laid(log, event)).collect();
        let text = serde_json::to_string(&laid).expect("texts, numbers and raw JSON always serialize");
        let replica = self.subscriptions.replica();
        let (id, process_id) = (Uuid::now_v7(), self.subscriptions.process_id);
        let replica_id = replica.as_ref().map_or(process_id, |replica| replica.id);
        let word = Word::Broadcast { process_id, id }.to_string();
        let mut transaction = self.database.begin().await?;
        notices::insert_broadcast(&mut transaction, replica_id, (id, &text), &word).await?;
        database::commit(transaction).await?;
        if let Some(replica) = replica {
            events.into_iter().for_each(|(log, event)| replica.broadcast(&log, &Arc::new(event)));
        }
        Ok(())
    }

    /// Sends an event to the subscribers of this process alone.
    pub fn broadcast_here(&self, log: &Log, event: NewEvent) {
        let now = Instant::from_unix_nanos(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64);
        if let Some(replica) = self.subscriptions.replica() {
            replica.broadcast(log, &Arc::new(event.at(0, now)));
        }
    }

    /// Fetches a broadcast of another replica. Returns nothing if it is too old.
    pub(super) async fn fetch_broadcast(&self, id: Uuid) -> Result<Vec<(Log, Event)>, Error> {
        let mut transaction = self.database.view().await?;
        let Some(text) = notices::broadcast(&mut transaction, id).await? else { return Ok(Vec::new()) };
        drop(transaction);
        let laid: Vec<Laid> = serde_json::from_str(&text).map_err(|error| Error::Damaged(error.to_string()))?;
        Ok(laid.into_iter().map(taken_up).collect::<Result<_, Invalid>>()?)
    }
}

fn laid(log: &Log, event: &Event) -> Laid {
    let Metadata { correlation_id, causation_id, user_id, deployment_id } = event.metadata.clone();
    Laid {
        tenant: log.tenant().to_owned(),
        topic: log.topic().to_owned(),
        id: event.id.clone(),
        stream: event.stream.clone(),
        event_type: event.event_type.clone(),
        reason: event.reason.clone(),
        raised_at: event.raised_at.unix_nanos(),
        correlation_id,
        causation_id,
        user_id,
        deployment_id,
        payload: serde_json::from_str(event.payload.as_str()).expect("a Json is valid JSON"),
        gdpr: event.gdpr_json(),
    }
}

fn taken_up(laid: Laid) -> Result<(Log, Event), Invalid> {
    let Laid {
        tenant,
        topic,
        id,
        stream,
        event_type,
        reason,
        raised_at,
        correlation_id,
        causation_id,
        user_id,
        deployment_id,
        payload,
        gdpr,
    } = laid;
    let event = Event {
        position: 0,
        id,
        stream,
        event_type,
        reason,
        raised_at: Instant::from_unix_nanos(raised_at),
        metadata: Metadata { correlation_id, causation_id, user_id, deployment_id },
        payload: Json::parse_object(payload.get())?,
        gdpr: Event::gdpr_from_json(gdpr.as_deref())?,
    };
    Ok((Log::new(tenant, topic)?, event))
}
