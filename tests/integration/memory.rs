//! The memory of the process, tried with the binary itself, has a bound while it works, and is given back when the work
//! is over.

use std::time::{Duration, Instant};

use coldstream::event::{Json, NewEvent};
use futures::StreamExt;
use futures::future::join_all;
use rand::RngExt;
use reqwest::{Client, Response, StatusCode};

use crate::support::{Program, Service, World, archive, import, old_event, settings};

const MIB: usize = 1024 * 1024;
/// The memory of a small container.
const LIMIT_BYTES: usize = 256 * MIB;
const CACHE_BYTES: usize = 16 * MIB;
/// The smallest value of the setting: the largest page is half of it.
const READ_BYTES: usize = 64 * MIB;
/// The longest time that a test waits for the allocator.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns an event that does not compress.
fn filled(number: usize, bytes: usize) -> NewEvent {
    let mut random = rand::rng();
    let text: String = (0..bytes).map(|_| random.random_range('a'..='z')).collect();
    let payload = Json::parse_object(&format!(r#"{{"text":"{text}"}}"#)).unwrap();
    NewEvent { stream: format!("stream-{}", number % 100), payload, ..old_event(number) }
}

/// Starts a service with little memory over the given numbers of archived and hot events of one size.
async fn small_service((archived, hot): (usize, usize), bytes: usize) -> (World, Service) {
    let world = World::new().await;
    let store = world.store(settings(archived.max(1) as u64));
    import(&store, &world.log(), (0..archived).map(|number| filled(number, bytes))).await;
    assert_eq!(archive(&store).await, archived as i64);
    import(&store, &world.log(), (archived..archived + hot).map(|number| filled(number, bytes))).await;
    let program = Program::new(&world, 1_000_000).set("S3_CACHE_BYTES", CACHE_BYTES);
    let program = program.set("STREAMS_READ_BYTES_MAX", READ_BYTES).set("STREAMS_READ_WAIT_SECONDS", 1);
    let service = Service::start(program).await;
    (world, service)
}

fn url(service: &Service) -> String {
    format!("{}/v1/topics/orders/events", service.http)
}

async fn get(target: String) -> Response {
    Client::new().get(target).send().await.unwrap()
}

/// Reads pages, streams and events anywhere in the log, eight at a time.
async fn read_anywhere(service: &Service, events: usize, reads: usize) {
    let read = async |number: usize| {
        let (at, url) = (rand::rng().random_range(0..events), url(service));
        let target = match number % 4 {
            0 => format!("{url}?tenant=acme&from={at}&limit=1000"),
            1 => format!("{url}?tenant=acme&stream=stream-{}", at % 100),
            _ => format!("{url}/event-{at}?tenant=acme"),
        };
        let response = get(target).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.bytes().await.unwrap();
    };
    futures::stream::iter(0..reads).map(read).buffer_unordered(8).collect::<Vec<_>>().await;
}

async fn end(service: Service, mut world: World) {
    service.finish().await;
    world.audit().await;
}

/// The log has 40 MB, of which the cache holds less than half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cold_reads_stay_below_a_limit_and_give_memory_back() {
    const EVENTS: usize = 20_000;
    let (world, service) = small_service((EVENTS, 0), 2_000).await;
    let idle = service.memory_bytes();
    read_anywhere(&service, EVENTS, 400).await;
    let peak = service.peak_memory_bytes();
    assert!(peak < LIMIT_BYTES, "{} MiB", peak / MIB);
    let began = Instant::now();
    let kept_max = idle + CACHE_BYTES + 24 * MIB;
    while service.memory_bytes() > kept_max {
        assert!(began.elapsed() < PATIENCE, "{} MiB, idle {} MiB", service.memory_bytes() / MIB, idle / MIB);
        tokio::task::yield_now().await;
    }
    end(service, world).await;
}

/// Each page takes up to 56 MiB, as events and as what is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_pages_at_once_wait_for_each_other() {
    let (world, service) = small_service((0, 28), MIB).await;
    let page = async || {
        loop {
            let response = get(format!("{}?tenant=acme&page=0&limit=28", url(&service))).await;
            match response.status() {
                // The request has waited for a second: clients try again.
                StatusCode::SERVICE_UNAVAILABLE => assert!(response.text().await.unwrap().contains("no memory")),
                status => {
                    assert_eq!(status, StatusCode::OK);
                    return response.bytes().await.unwrap().len();
                }
            }
        }
    };
    let sizes = join_all((0..8).map(|_| page())).await;
    assert!(sizes.iter().all(|bytes| *bytes > 28 * MIB), "{sizes:?}");
    let peak = service.peak_memory_bytes();
    assert!(peak < LIMIT_BYTES, "{} MiB", peak / MIB);
    end(service, world).await;
}

/// The slow client has got the head of its answer, and fetches no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_keeps_its_memory_and_small_reads_go_on() {
    let (world, service) = small_service((0, 28), MIB).await;
    let (page, event) =
        (format!("{}?tenant=acme&page=0&limit=28", url(&service)), format!("{}/event-3", url(&service)));
    let slow = get(page.clone()).await;
    assert_eq!(slow.status(), StatusCode::OK);
    let refused = get(page.clone()).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(get(format!("{event}?tenant=acme")).await.status(), StatusCode::OK);
    drop(slow);
    while get(page.clone()).await.status() != StatusCode::OK {}
    end(service, world).await;
}

/// Clients that count pages would miss the events that a shorter page leaves out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_too_large_is_refused_before_it_is_read() {
    let (world, service) = small_service((44, 44), MIB).await;
    world.proxy.take_seen();
    for page in [0, 1] {
        let refused = get(format!("{}?tenant=acme&page={page}&limit=44", url(&service))).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        let why = refused.text().await.unwrap();
        assert!(why.contains("at most 33554432") && why.contains("ask for fewer"), "{why}");
    }
    assert_eq!(world.proxy.take_asked(), [], "the catalog knows how large members are");
    let peak = service.peak_memory_bytes();
    assert!(peak < LIMIT_BYTES / 2, "{} MiB", peak / MIB);
    end(service, world).await;
}
