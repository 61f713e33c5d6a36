//! A real log goes from its file through the archiver to every way of reading it: each event equals its source in every
//! field.

mod source;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::process::{Command, Stdio};

use coldstream::api::proto::PaginateEventsRequest;
use coldstream::api::proto::service_client::ServiceClient;
use coldstream::event;
use futures::StreamExt;
use reqwest::Client;
use serde::Deserialize;
use tonic::transport::Endpoint;

use crate::support::{Program, Service, World, settings};

use source::{EVENTS, Loan, loan_applications, source};

const ARCHIVED: usize = 200_000;
const PATH: &str = "/v1/topics/loan-applications";
const PAGE: usize = 10_000;
const READERS: usize = 4;
/// One of this many ids is read by itself over HTTP.
const IDS_STEP: usize = 997;
/// One of this many streams is read.
const STREAMS_STEP: usize = 4;
/// The number of events in a published batch; one of `BATCHES_STEP` batches is published again.
const BATCH: usize = 4_000;
const BATCHES_STEP: usize = 4;

#[derive(Deserialize)]
struct Page {
    events: Vec<Loan>,
    next_cursor: String,
    head_position: usize,
}

/// The imported events, and the service that is to give them back.
struct Log {
    source: Vec<Loan>,
    service: Service,
    http: Client,
}

impl Log {
    async fn get(&self, query: &str) -> String {
        let separator = if query.contains('?') { '&' } else { '?' };
        let url = format!("{}{PATH}/{query}{separator}tenant=acme-bank", self.service.http);
        let answer = self.http.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.text().await.unwrap()
    }

    async fn page(&self, query: &str) -> Page {
        let page: Page = serde_json::from_str(&self.get(&format!("events?{query}")).await).unwrap();
        assert_eq!(page.head_position, self.source.len());
        page
    }

    async fn one(&self, query: &str) -> Loan {
        serde_json::from_str(&self.get(query).await).unwrap()
    }

    /// Fails at the first event that is not its source.
    fn check(&self, case: &str, found: &[Loan], expected: impl ExactSizeIterator<Item = usize>) {
        assert_eq!(found.len(), expected.len(), "{case}");
        for (found, index) in found.iter().zip(expected) {
            assert_eq!(*found, self.source[index], "{case}");
        }
    }

    /// Returns the ranges of the pages of the whole log.
    fn pages(&self) -> impl Iterator<Item = Range<usize>> {
        let end = self.source.len();
        (0..end).step_by(PAGE).map(move |start| start..end.min(start + PAGE))
    }

    /// Returns the indexes of events by what they have in common.
    fn grouped(&self, by: fn(&Loan) -> &str) -> BTreeMap<&str, Vec<usize>> {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, loan) in self.source.iter().enumerate() {
            groups.entry(by(loan)).or_default().push(index);
        }
        groups
    }
}

async fn side_by_side(work: impl IntoIterator<Item = impl Future<Output = ()>>) {
    futures::stream::iter(work).buffer_unordered(READERS).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loan_application_comes_back_by_every_way() {
    let mut world = World::new().await;
    let program = Program::new(&world, 100_000).unset("STREAMS_ARCHIVE_SIZE");
    let file = loan_applications(&program);
    let import = ["import", file.to_str().unwrap()];
    assert!(program.run(&import).await.succeeded().starts_with("imported 262,200 events"));
    assert!(program.run(&["archive"]).await.succeeded().starts_with("archived 200,000 events in 2 objects"));
    check_places(&world, &program).await;

    let log = Log { source: source(&file), service: Service::start(program).await, http: Client::new() };
    check_reads(&log).await;
    publish_again(&world, &log).await;
    world.audit().await;

    // The database is lost: all archived events come back from the two objects, in every field and by every way.
    let Log { mut source, service, http } = log;
    service.finish().await;
    world.lose_database().await;
    let program = Program::new(&world, 100_000);
    let said = program.run(&["recover"]).await.succeeded();
    println!("{said}");
    assert!(said.starts_with("recovered 200,000 events in 2 objects"), "{said}");
    source.truncate(ARCHIVED);
    let log = Log { source, service: Service::start(program).await, http };
    check_reads(&log).await;
    publish_again(&world, &log).await;
    world.audit().await;
}

async fn check_reads(log: &Log) {
    check_replay(log).await;
    check_pages(log).await;
    check_grpc(log).await;
    check_types(log).await;
    check_streams(log).await;
    check_ids(log).await;
    check_last(log).await;
}

/// Checks that two objects have 100,000 events each, that plain tools can read them, and that the rest is hot.
async fn check_places(world: &World, program: &Program) {
    let keys = world.bucket.keys().await;
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("acme-bank/loan-applications/"), "{key}");
        let object = program.write("object.json.gz", world.bucket.get(&key).await);
        let mut unzipped = Command::new("zcat").arg(object).stdout(Stdio::piped()).spawn().unwrap();
        let text = unzipped.stdout.take().unwrap();
        let count = "import json, sys; print(len(json.load(sys.stdin)))";
        let counted = Command::new("python3").args(["-c", count]).stdin(text).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&counted.stdout), "100000\n", "{counted:?}");
        assert!(unzipped.wait().unwrap().success());
    }
    let hot: (i64, i64, i64) = sqlx::query_as("SELECT count(*), min(position), max(position) FROM events")
        .fetch_one(&world.sql)
        .await
        .unwrap();
    assert_eq!(hot, ((EVENTS - ARCHIVED) as i64, ARCHIVED as i64 + 1, EVENTS as i64));
}

async fn check_replay(log: &Log) {
    let url = format!("{}{PATH}/events?tenant=acme-bank", log.service.http);
    let mut answer = log.http.get(url).header("accept", "application/x-ndjson").send().await.unwrap();
    let (mut waiting, mut next) = (Vec::new(), 0);
    while let Some(bytes) = answer.chunk().await.unwrap() {
        waiting.extend_from_slice(&bytes);
        let whole = waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in waiting.drain(..whole).collect::<Vec<_>>().split(|byte| *byte == b'\n').filter(|it| !it.is_empty())
        {
            assert_eq!(serde_json::from_slice::<Loan>(line).unwrap(), log.source[next], "replay");
            next += 1;
        }
    }
    assert_eq!((next, waiting.len()), (log.source.len(), 0));
}

/// Reads pages by their number, and after the id of the event before.
async fn check_pages(log: &Log) {
    let checks = log.pages().enumerate().map(|(number, expected)| async move {
        let page = log.page(&format!("limit={PAGE}&page={number}")).await;
        log.check("page", &page.events, expected.clone());
        let Some(before) = expected.start.checked_sub(1) else { return };
        let page = log.page(&format!("limit={PAGE}&after_id={}", log.source[before].id)).await;
        log.check("after an id", &page.events, expected);
    });
    side_by_side(checks).await;
}

async fn check_grpc(log: &Log) {
    let channel = Endpoint::from_shared(log.service.grpc.clone()).unwrap().connect().await.unwrap();
    let client = ServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    side_by_side(log.pages().enumerate().map(|(number, expected)| {
        let mut client = client.clone();
        async move {
            let (tenant_id, topic) = ("acme-bank".to_owned(), "loan-applications".to_owned());
            let (types, page, per_page) = (Vec::new(), number as i64, PAGE as i64);
            let request = PaginateEventsRequest { tenant_id, topic, types, page, per_page };
            let events = client.paginate_events(request).await.unwrap().into_inner().events;
            assert_eq!(events.len(), expected.len(), "{number}");
            for (found, index) in events.iter().zip(expected) {
                log.source[index].assert_is(found);
            }
        }
    }))
    .await;
}

/// Reads each type to its end, from cursor to cursor.
async fn check_types(log: &Log) {
    let types = log.grouped(|loan| &loan.r#type);
    side_by_side(types.iter().map(|(name, expected)| async move {
        let (mut rest, mut cursor) = (expected.as_slice(), String::new());
        loop {
            let page = log.page(&format!("limit={PAGE}&type={name}{cursor}")).await;
            let (expected, after) = rest.split_at(rest.len().min(PAGE));
            log.check(name, &page.events, expected.iter().copied());
            if page.events.is_empty() {
                break;
            }
            (rest, cursor) = (after, format!("&cursor={}", page.next_cursor));
        }
    }))
    .await;
}

async fn check_streams(log: &Log) {
    let streams = log.grouped(|loan| &loan.stream);
    let is_across = |indexes: &[usize]| indexes[0] < ARCHIVED && indexes[indexes.len() - 1] >= ARCHIVED;
    let is_in_both = log.source.len() > ARCHIVED;
    assert_eq!(streams.values().any(|expected| is_across(expected)), is_in_both, "some streams are in both places");
    // Neighbours in the log are read together, so that they share members.
    let mut streams: Vec<_> = streams.into_iter().collect();
    streams.sort_by_key(|(_, expected)| expected[0]);
    side_by_side(streams.iter().step_by(STREAMS_STEP).map(|(name, expected)| async move {
        let page = log.page(&format!("limit={PAGE}&stream={name}")).await;
        log.check(name, &page.events, expected.iter().copied());
    }))
    .await;
}

/// Reads ids all over both archives and the hot rows, and those of their first and last events.
async fn check_ids(log: &Log) {
    let last = log.source.len() - 1;
    let edges = [0, ARCHIVED / 2 - 1, ARCHIVED / 2, ARCHIVED - 1, ARCHIVED.min(last), last];
    side_by_side((0..last).step_by(IDS_STEP).chain(edges).map(|index| async move {
        let expected = &log.source[index];
        assert_eq!(log.one(&format!("events/{}", expected.id)).await, *expected);
    }))
    .await;
}

/// Publishes events again: each is looked for by its id, compared in every field, and would be refused if it were
/// another one.
async fn publish_again(world: &World, log: &Log) {
    let (store, place) = (world.store(settings(1)), event::Log::new("acme-bank", "loan-applications").unwrap());
    for batch in log.source.chunks(BATCH).step_by(BATCHES_STEP) {
        let published = store.publish(&place, batch.iter().map(Loan::to_new).collect()).await.unwrap();
        for (published, expected) in published.iter().zip(batch) {
            let found = (published.id.as_str(), published.position as usize, published.is_new);
            assert_eq!(found, (expected.id.as_str(), expected.position, false));
        }
    }
}

async fn check_last(log: &Log) {
    assert_eq!(log.one("last-event").await, log.source[log.source.len() - 1]);
    let last: HashMap<&str, &Loan> = log.source.iter().map(|loan| (loan.r#type.as_str(), loan)).collect();
    side_by_side(last.iter().map(|(name, expected)| async move {
        assert_eq!(log.one(&format!("last-event?type={name}")).await, **expected);
    }))
    .await;
}
