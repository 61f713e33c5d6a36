use uuid::Uuid;

use crate::event::gdpr::{self, Gdpr, GdprField};
use crate::event::patch::{Patch, field_of};
use crate::event::{ID_BYTES_MAX, Instant, Invalid, Json, NAME_BYTES_MAX, check_text, check_type};

/// An immutable fact at its position in a log. The log is known from where the event was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The number of the event in its log: from 1, without gaps, in the order in which commits became visible.
    pub position: i64,
    pub id: String,
    pub stream: String,
    pub event_type: String,
    pub reason: String,
    pub raised_at: Instant,
    pub metadata: Metadata,
    pub payload: Json,
    pub gdpr: Gdpr,
}

/// The data that a publisher gives of an event beside its payload. Empty texts and 0 stand for "not given".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    pub correlation_id: String,
    pub causation_id: String,
    pub user_id: String,
    pub deployment_id: i64,
}

/// An event that is not in its log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub id: String,
    pub stream: String,
    pub event_type: String,
    pub reason: String,
    /// The time of an imported event; `None` stands for the time at which the event is published.
    pub raised_at: Option<Instant>,
    pub metadata: Metadata,
    pub payload: Json,
    pub gdpr: Gdpr,
}

/// The edits of an event that the ledger knows.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// JSON pointers to the values that patches have changed.
    pub patched: Vec<String>,
    /// The renames of types in the event's log, each from the old name to the new one, in the order in which they were
    /// made.
    pub renames: Vec<(String, String)>,
}

impl NewEvent {
    /// See [`Event::byte_len`].
    pub fn byte_len(&self) -> usize {
        let NewEvent { id, stream, event_type, reason, raised_at: _, metadata, payload, gdpr } = self;
        byte_len([id, stream, event_type, reason], metadata, payload, gdpr)
    }

    pub fn check_size(&self, bytes_max: usize) -> Result<(), Invalid> {
        check_size(&self.id, self.byte_len(), bytes_max)
    }

    /// Checks every field, and gives an id to an event that has none.
    pub fn check(mut self) -> Result<NewEvent, Invalid> {
        if self.id.is_empty() {
            self.id = Uuid::now_v7().to_string();
        }
        check_text("the id", &self.id, ID_BYTES_MAX)?;
        check_text("the stream", &self.stream, NAME_BYTES_MAX)?;
        check_type(&self.event_type)?;
        check_text("the reason", &self.reason, usize::MAX)?;
        let Metadata { correlation_id, causation_id, user_id, deployment_id: _ } = &self.metadata;
        check_text("the correlation id", correlation_id, NAME_BYTES_MAX)?;
        check_text("the causation id", causation_id, NAME_BYTES_MAX)?;
        check_text("the user id", user_id, NAME_BYTES_MAX)?;
        if !self.payload.is_object() {
            return Err(Invalid("the payload is not a JSON object".into()));
        }
        for name in self.gdpr.keys() {
            if !self.payload.members().iter().any(|member| member.key().is_ok_and(|key| key == *name)) {
                return Err(Invalid(format!("there are GDPR data for {name:?}, which is no field of the payload")));
            }
        }
        Ok(self)
    }

    /// Returns whether to publish this event is to publish `event` again: everything that the publisher says is the
    /// same. The server's own data (position, raised_at, generated GDPR ids) do not count, and neither do fields that
    /// became personal or were invalidated since.
    pub fn is_same_as(&self, event: &Event) -> bool {
        let NewEvent { id, stream, event_type, reason, raised_at, metadata, payload, gdpr } = self;
        let invalidated = event.gdpr.iter().filter(|(_, field)| field.is_invalidated);
        let payload =
            invalidated.fold(payload.clone(), |payload, (name, field)| payload.with_value(name, &field.default));
        *id == event.id
            && *stream == event.stream
            && *event_type == event.event_type
            && *reason == event.reason
            && raised_at.is_none_or(|raised_at| raised_at == event.raised_at)
            && *metadata == event.metadata
            && payload == event.payload
            && gdpr.iter().all(|(name, new)| event.gdpr.get(name).is_some_and(|old| new.default == old.default))
    }

    /// Like [`NewEvent::is_same_as`], for an event that was edited since: fields that patches have changed do not
    /// count, and neither do the renames of its type.
    pub fn was_same_as(&self, event: &Event, edits: &Edits) -> bool {
        let removing = Patch::removing(&edits.patched.iter().map(|pointer| field_of(pointer)).collect::<Vec<_>>());
        let there = Event { payload: removing.apply(&event.payload).payload, ..event.clone() };
        // The event was published before all of the renames, before some, or before none.
        (0..=edits.renames.len()).any(|first| {
            let renamed = edits.renames[first..]
                .iter()
                .fold(&self.event_type, |name, (old_type, new_type)| if name == old_type { new_type } else { name });
            let payload = removing.apply(&self.payload).payload;
            NewEvent { event_type: renamed.clone(), payload, ..self.clone() }.is_same_as(&there)
        })
    }

    pub fn at(self, position: i64, raised_at: Instant) -> Event {
        let NewEvent { id, stream, event_type, reason, raised_at: own, metadata, payload, gdpr } = self;
        let raised_at = own.unwrap_or(raised_at);
        Event { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr }
    }
}

impl Event {
    /// Returns whether this is `other`, as edits may have made it: everything is the same that no edit changes.
    pub fn is_edit_of(&self, other: &Event) -> bool {
        let Event { position, id, stream, event_type: _, reason, raised_at, metadata, payload: _, gdpr: _ } = self;
        (*position, id, stream) == (other.position, &other.id, &other.stream)
            && (reason, *raised_at, metadata) == (&other.reason, other.raised_at, &other.metadata)
    }

    /// The size of an event, as limits count it: the bytes in UTF-8 of its id, stream, type, reason, correlation id,
    /// causation id and user id; of its payload as JSON without white space; and of the name, the GDPR id and the
    /// default of each personal field.
    pub fn byte_len(&self) -> usize {
        let Event { position: _, id, stream, event_type, reason, raised_at: _, metadata, payload, gdpr } = self;
        byte_len([id, stream, event_type, reason], metadata, payload, gdpr)
    }

    pub fn check_size(&self, bytes_max: usize) -> Result<(), Invalid> {
        check_size(&self.id, self.byte_len(), bytes_max)
    }

    /// The personal fields as JSON; `None` if there are none.
    pub fn gdpr_json(&self) -> Option<String> {
        (!self.gdpr.is_empty()).then(|| gdpr::to_json(&self.gdpr))
    }

    pub fn gdpr_from_json(text: Option<&str>) -> Result<Gdpr, Invalid> {
        text.map_or_else(|| Ok(Gdpr::new()), gdpr::from_json)
    }

    /// Makes the fields whose GDPR ids are wanted show their defaults from now on.
    pub fn invalidate(&mut self, is_wanted: impl Fn(&str) -> bool) {
        for (name, field) in &mut self.gdpr {
            if !field.is_invalidated && is_wanted(&field.id) {
                field.is_invalidated = true;
                self.payload = self.payload.with_value(name, &field.default);
            }
        }
    }

    /// The GDPR ids of the fields that still show their values.
    pub fn gdpr_ids(&self) -> impl Iterator<Item = &str> {
        self.gdpr.values().filter(|field| !field.is_invalidated).map(|field| field.id.as_str())
    }

    /// The bytes that the event takes in memory, about.
    pub fn weight(&self) -> usize {
        let Metadata { correlation_id, causation_id, user_id, .. } = &self.metadata;
        let texts = [&self.id, &self.stream, &self.event_type, &self.reason, correlation_id, causation_id, user_id];
        let personal = self.gdpr.iter().map(|(name, field)| {
            size_of::<(String, GdprField)>() + name.len() + field.id.len() + field.default.byte_len()
        });
        size_of::<Event>()
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + self.payload.byte_len()
            + personal.sum::<usize>()
    }
}

fn byte_len(texts: [&String; 4], metadata: &Metadata, payload: &Json, gdpr: &Gdpr) -> usize {
    let Metadata { correlation_id, causation_id, user_id, deployment_id: _ } = metadata;
    let texts = texts.into_iter().chain([correlation_id, causation_id, user_id]).map(String::len).sum::<usize>();
    let personal = gdpr.iter().map(|(name, field)| name.len() + field.id.len() + field.default.byte_len());
    texts + payload.byte_len() + personal.sum::<usize>()
}

fn check_size(id: &str, bytes: usize, bytes_max: usize) -> Result<(), Invalid> {
    if bytes > bytes_max {
        return Err(Invalid(format!("the event {id:?} has {bytes} bytes, at most {bytes_max} are taken")));
    }
    Ok(())
}
