//! A decoded member: its JSON, and where in it the texts of each event are. So a member takes two pieces of memory of
//! known size instead of some for every event, and texts that nobody asks for are never copied.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::event::{BorrowedEvent, BorrowedMetadata, Event, Instant, Json};

/// The size from which a payload is worth keeping its whole member for.
const LARGE_BYTES: usize = 64 * 1024;

/// The events of a member, in the order of their positions.
#[derive(Debug)]
pub struct Member {
    json: Bytes,
    entries: Vec<Entry>,
    /// The bytes of the texts that have escapes in the JSON, and so are not slices of it.
    owned_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    position: i64,
    raised_at: Instant,
    deployment_id: i64,
    id: Text,
    stream: Text,
    event_type: Text,
    reason: Text,
    correlation_id: Text,
    causation_id: Text,
    user_id: Text,
    payload: Range<u32>,
    gdpr: Option<Text>,
}

#[derive(Debug)]
enum Text {
    Within(Range<u32>),
    /// A text that has escapes in the JSON.
    Own(Box<str>),
}

/// One event of a member, whose texts stay in the member.
#[derive(Clone, Copy)]
pub struct MemberEvent<'a> {
    member: &'a Member,
    entry: &'a Entry,
}

impl Member {
    pub(super) fn new(json: Bytes, events_expected: usize) -> Member {
        Member { json, entries: Vec::with_capacity(events_expected), owned_bytes: 0 }
    }

    /// Adds an event that was read from the JSON. Fails if the event could not be taken out of the member.
    pub(super) fn push(&mut self, event: BorrowedEvent<'_>) -> Result<(), String> {
        event.gdpr().map_err(|error| error.to_string())?;
        let BorrowedEvent { position, id, stream, event_type, reason, raised_at, metadata, payload, gdpr } = event;
        let BorrowedMetadata { correlation_id, causation_id, user_id, deployment_id } = metadata;
        let payload = self.range(payload).ok_or("the payload of an event is not a part of its member")?;
        let mut text = |text| self.text(text);
        let entry = Entry {
            position,
            raised_at,
            deployment_id,
            id: text(id),
            stream: text(stream),
            event_type: text(event_type),
            reason: text(reason),
            correlation_id: text(correlation_id),
            causation_id: text(causation_id),
            user_id: text(user_id),
            payload,
            gdpr: gdpr.map(text),
        };
        self.entries.push(entry);
        Ok(())
    }

    /// The range of `text` in the JSON, if it is a slice of it.
    fn range(&self, text: &str) -> Option<Range<u32>> {
        let start = (text.as_ptr() as usize).checked_sub(self.json.as_ptr() as usize)?;
        let end = start.checked_add(text.len()).filter(|end| *end <= self.json.len())?;
        Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?)
    }

    fn text(&mut self, text: Cow<'_, str>) -> Text {
        if let Some(range) = self.range(&text) {
            return Text::Within(range);
        }
        self.owned_bytes += text.len();
        Text::Own(text.into_owned().into_boxed_str())
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.json[range.start as usize..range.end as usize]
    }

    pub fn events(&self) -> impl DoubleEndedIterator<Item = MemberEvent<'_>> {
        self.entries.iter().map(|entry| MemberEvent { member: self, entry })
    }

    /// The bytes that the member takes in memory.
    pub fn weight(&self) -> usize {
        size_of::<Member>() + self.json.len() + self.entries.capacity() * size_of::<Entry>() + self.owned_bytes
    }
}

impl<'a> MemberEvent<'a> {
    fn text(self, text: &'a Text) -> &'a str {
        match text {
            Text::Within(range) => {
                std::str::from_utf8(self.member.slice(range)).expect("it was a text when the member was decoded")
            }
            Text::Own(text) => text,
        }
    }

    pub fn position(self) -> i64 {
        self.entry.position
    }

    pub fn id(self) -> &'a str {
        self.text(&self.entry.id)
    }

    pub fn stream(self) -> &'a str {
        self.text(&self.entry.stream)
    }

    pub fn event_type(self) -> &'a str {
        self.text(&self.entry.event_type)
    }

    /// Makes an event of its own. Only a large payload remains a slice of its member, and keeps all of that in memory.
    pub fn to_event(self) -> Event {
        let Entry {
            position,
            raised_at,
            deployment_id,
            id,
            stream,
            event_type,
            reason,
            correlation_id,
            causation_id,
            user_id,
            payload,
            gdpr,
        } = self.entry;
        let text = |text| Cow::Borrowed(self.text(text));
        let event = BorrowedEvent {
            position: *position,
            id: text(id),
            stream: text(stream),
            event_type: text(event_type),
            reason: text(reason),
            raised_at: *raised_at,
            metadata: BorrowedMetadata {
                correlation_id: text(correlation_id),
                causation_id: text(causation_id),
                user_id: text(user_id),
                deployment_id: *deployment_id,
            },
            payload: "",
            gdpr: gdpr.as_ref().map(text),
        };
        let payload = match self.member.slice(payload) {
            small if small.len() < LARGE_BYTES => Bytes::copy_from_slice(small),
            large => self.member.json.slice_ref(large),
        };
        let payload = Json::trusted(payload);
        event.into_event(payload).expect("its personal fields were read when the member was decoded")
    }
}
