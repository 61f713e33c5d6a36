//! A real log, from the file through the archiver to every way of reading it: each event is its source in every field.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use futures::StreamExt;
use reqwest::Client;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Program, Service, World};

const EVENTS: usize = 262_200;
const ARCHIVED: usize = 200_000;
const PATH: &str = "/v1/topics/loan-applications";
const PAGE: usize = 10_000;
const READERS: usize = 4;
/// Of that many streams or ids, one is read.
const STREAMS_STEP: usize = 20;
const IDS_STEP: usize = 997;

/// An event as it stands in the file, and as it comes out again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Loan {
    #[serde(default)]
    position: usize,
    id: String,
    tenant_id: String,
    topic: String,
    stream: String,
    r#type: String,
    #[serde(with = "time::serde::rfc3339")]
    raised_at: OffsetDateTime,
    payload: Box<RawValue>,
}

impl PartialEq for Loan {
    /// The payload to the letter.
    fn eq(&self, other: &Loan) -> bool {
        let fields = |loan: &Loan| {
            let Loan { position, id, tenant_id, topic, stream, r#type, raised_at, payload } = loan;
            (*position, [id, tenant_id, topic, stream, r#type].map(String::clone), *raised_at, payload.get().to_owned())
        };
        fields(self) == fields(other)
    }
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Loan>,
    next_cursor: String,
    head_position: usize,
}

/// What was imported, and the service that is to give it back.
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
        assert_eq!(page.head_position, EVENTS);
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

    /// Where the events are that have one thing in common, by that.
    fn grouped(&self, by: fn(&Loan) -> &str) -> BTreeMap<&str, Vec<usize>> {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, loan) in self.source.iter().enumerate() {
            groups.entry(by(loan)).or_default().push(index);
        }
        groups
    }
}

/// Pages of the whole log.
fn pages() -> impl Iterator<Item = Range<usize>> {
    (0..EVENTS).step_by(PAGE).map(|start| start..EVENTS.min(start + PAGE))
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
    assert!(program.run(&import).await.succeeded().starts_with("imported 262 200 events"));
    assert!(program.run(&["archive"]).await.succeeded().starts_with("archived 200 000 events in 2 objects"));
    check_places(&world, &program).await;
    let again = program.run(&import).await.succeeded();
    assert!(again.starts_with("imported 0 events") && again.ends_with("skipped 262 200 that were there\n"), "{again}");

    let log = Log { source: source(&file), service: Service::start(program).await, http: Client::new() };
    check_replay(&log).await;
    check_pages(&log).await;
    check_types(&log).await;
    check_streams(&log).await;
    check_ids(&log).await;
    check_last(&log).await;
    world.audit().await;
}

/// Two objects of 100,000 events, which plain tools can read; the rest is hot.
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
    assert_eq!((next, waiting.len()), (EVENTS, 0));
}

/// By number, and after the id of the event before.
async fn check_pages(log: &Log) {
    let checks = pages().enumerate().map(|(number, expected)| async move {
        let page = log.page(&format!("limit={PAGE}&page={number}")).await;
        log.check("page", &page.events, expected.clone());
        let Some(before) = expected.start.checked_sub(1) else { return };
        let page = log.page(&format!("limit={PAGE}&after_id={}", log.source[before].id)).await;
        log.check("after an id", &page.events, expected);
    });
    side_by_side(checks).await;
}

/// Each to its end, from cursor to cursor.
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
    let chosen: Vec<_> = streams.iter().step_by(STREAMS_STEP).collect();
    assert!(chosen.iter().any(|(_, expected)| is_across(expected)), "some are in both places");
    side_by_side(chosen.into_iter().map(|(name, expected)| async move {
        let page = log.page(&format!("limit={PAGE}&stream={name}")).await;
        log.check(name, &page.events, expected.iter().copied());
    }))
    .await;
}

/// Over both archives and the hot rows, with their first and last events.
async fn check_ids(log: &Log) {
    let edges = [0, ARCHIVED / 2 - 1, ARCHIVED / 2, ARCHIVED - 1, ARCHIVED, EVENTS - 1];
    side_by_side((0..EVENTS).step_by(IDS_STEP).chain(edges).map(|index| async move {
        let expected = &log.source[index];
        assert_eq!(log.one(&format!("events/{}", expected.id)).await, *expected);
    }))
    .await;
}

async fn check_last(log: &Log) {
    assert_eq!(log.one("last-event").await, log.source[EVENTS - 1]);
    let last: HashMap<&str, &Loan> = log.source.iter().map(|loan| (loan.r#type.as_str(), loan)).collect();
    side_by_side(last.iter().map(|(name, expected)| async move {
        assert_eq!(log.one(&format!("last-event?type={name}")).await, **expected);
    }))
    .await;
}

fn source(file: &Path) -> Vec<Loan> {
    let lines = BufReader::new(GzDecoder::new(BufReader::new(File::open(file).unwrap()))).lines();
    let loans =
        lines.zip(1..).map(|(line, position)| Loan { position, ..serde_json::from_str(&line.unwrap()).unwrap() });
    let loans: Vec<Loan> = loans.collect();
    assert_eq!(loans.len(), EVENTS);
    assert_eq!(loans.iter().map(|loan| &loan.id).collect::<BTreeSet<_>>().len(), EVENTS);
    loans
}

/// The real ones; where they are not at hand, as many of the same shape.
fn loan_applications(program: &Program) -> PathBuf {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/loan-applications.ndjson.gz");
    if real.exists() {
        return real;
    }
    println!("{} is not there: {EVENTS} events of the same shape are made instead", real.display());
    let path = program.folder().join("made.ndjson.gz");
    let mut out = GzEncoder::new(File::create(&path).unwrap(), Compression::fast());
    let start = OffsetDateTime::from_unix_timestamp(1_317_422_324).unwrap();
    for number in 0..EVENTS {
        let raised_at = (start + time::Duration::milliseconds(50_546 * number as i64)).format(&Rfc3339).unwrap();
        // Every application goes on for a while beside many others.
        let (stream, step) = (173_688 + number % 97 + number / 2_000 * 97, number % 36);
        writeln!(
            out,
            r#"{{"id":"made-{number}","tenant_id":"acme-bank","topic":"loan-applications","stream":"{stream}","type":"A_STEP_{step}.COMPLETE","raised_at":"{raised_at}","payload":{{"org_resource":"{}","amount_req":"{}"}}}}"#,
            number % 113,
            number % 50 * 1_000,
        )
        .unwrap();
    }
    out.finish().unwrap();
    path
}
