//! The events with which the sections measure.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::process::Stdio;
use std::sync::Arc;

use coldstream::event::{Filter, Gdpr, Json, Log, Metadata, NewEvent};
use coldstream::store::{Query, Store};
use futures::StreamExt;
use uuid::Uuid;

use crate::servers::Servers;

/// The padding with which an event has about 840 bytes of JSON.
const PADDING_BYTES: usize = 640;

/// The most events of a log, from EVENTS_MAX: it leaves out the largest logs, which take ten minutes each.
pub fn max() -> u64 {
    let set = std::env::var("EVENTS_MAX").ok();
    set.map_or(u64::MAX, |text| text.parse().expect("EVENTS_MAX is a number"))
}

/// Makes a database and loads old events into it.
pub async fn import(servers: &Servers, database: &str, events: u64) {
    servers.execute("postgres", &format!("CREATE DATABASE {database}")).await;
    let mut import = servers.coldstream(database, &["import", "-"]);
    let mut import = import.stdin(Stdio::piped()).spawn().expect("the program can be started");
    let stdin = import.stdin.take().expect("it is piped");
    let written = tokio::task::spawn_blocking(move || {
        write(BufWriter::new(stdin), events).expect("the import reads to the end");
        import.wait().expect("the import can be waited for")
    });
    assert!(written.await.expect("writing does not panic").success());
}

/// Writes events as lines that can be imported.
pub fn write(mut out: impl Write, events: u64) -> std::io::Result<()> {
    for number in 0..events {
        writeln!(
            out,
            "{{\"id\":\"{}\",\"tenant_id\":\"acme\",\"topic\":\"orders\",\"stream\":\"order-{}\",\
             \"type\":\"order.placed\",\"raised_at\":\"2020-01-01T00:00:00Z\",\"payload\":{}}}",
            id(number),
            number % 50_000,
            payload(number),
        )?;
    }
    out.flush()
}

/// Reads the whole log from its first event to its last, and returns how many there were.
pub async fn replay(store: &Arc<Store>) -> u64 {
    let everything = Query { filter: Filter::All, from: 1, skip: 0, limit: i64::MAX };
    let mut windows = std::pin::pin!(store.replay(log(), everything));
    let mut seen = 0;
    while let Some(window) = windows.next().await {
        seen += window.expect("the log can be read").len() as u64;
    }
    seen
}

/// The id of a loaded event, whose position is one more than its number.
pub fn id(number: u64) -> String {
    Uuid::from_u64_pair(splitmix(2 * number), splitmix(2 * number + 1)).to_string()
}

/// The log that events are loaded into.
pub fn log() -> Log {
    Log::new("acme", "orders").expect("the names are good")
}

/// An event that is raised when it is published.
pub fn event(id: String, number: u64) -> NewEvent {
    NewEvent {
        id,
        stream: format!("order-{}", number % 50_000),
        event_type: "order.placed".into(),
        reason: String::new(),
        raised_at: None,
        metadata: Metadata::default(),
        payload: Json::parse_object(&payload(number)).expect("it is an object"),
        gdpr: Gdpr::default(),
    }
}

/// The JSON of a payload that compresses about as well as real ones do. It is made quickly, because the making of
/// events is measured with their publishing.
pub fn payload(number: u64) -> String {
    let mut payload = String::with_capacity(PADDING_BYTES + 64);
    let _ = write!(payload, "{{\"number\":{number},\"text\":\"");
    let mut state = number;
    for _ in 0..PADDING_BYTES / 32 {
        state = splitmix(state);
        payload.push_str("000000000000000000000000");
        let _ = write!(payload, "{:08}", state >> 40);
    }
    payload.push_str("\"}");
    payload
}

/// A number that looks random, the same for the same seed.
pub fn splitmix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
