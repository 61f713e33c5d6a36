//! The command line as an operator meets it: what each verb says, what stops the start, and where settings come from.

use std::io::Write;

use coldstream::event::{Gdpr, GdprField, Json, NewEvent};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::join_all;

use crate::support::{Ended, Fate, Program, Service, World, archive, import, in_order, old_event, read_all, settings};

/// An address at which nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

#[tokio::test]
async fn the_help_lists_every_verb() {
    let help = Program::bare().run(&["--help"]).await.succeeded();
    let verbs =
        ["serve", "migrate", "import", "archive", "restore", "status", "verify", "recover", "adopt", "sweep", "demo"];
    for verb in verbs {
        assert!(help.lines().any(|line| line.split_whitespace().next() == Some(verb)), "{verb}: {help}");
    }
    let unknown = Program::bare().run(&["archvie"]).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_or_missing_variable_stops_the_start_with_one_line() {
    let mut world = World::new().await;
    // The ports are free, so that only the variable can be at fault.
    let program = || Program::new(&world, 3).set("HTTP_ADDR", "127.0.0.1:0").set("GRPC_ADDR", "127.0.0.1:0");
    let missing = |name: &'static str| (vec!["serve"], program().unset(name), vec![name, "is not set"]);
    let wrong =
        |name: &'static str, value: &'static str| (vec!["serve"], program().set(name, value), vec![name, value]);
    let mut cases = vec![
        missing("POSTGRES_CONNECTION"),
        missing("S3_ENDPOINT"),
        missing("S3_ACCESS_KEY"),
        missing("S3_SECRET_KEY"),
        missing("S3_BUCKET"),
        wrong("POSTGRES_CONNECTIONS_MAX", "0"),
        wrong("STREAMS_ARCHIVE", "yes"),
        wrong("STREAMS_ARCHIVE_SIZE", "many"),
        wrong("STREAMS_ARCHIVE_SIZE", "0"),
        wrong("STREAMS_ARCHIVE_OLDER_THAN_DAYS", "-1"),
        wrong("STREAMS_ARCHIVE_INTERVAL_SECONDS", "0"),
        wrong("STREAMS_ARCHIVE_LEASE_SECONDS", "0.5"),
        wrong("STREAMS_START_UNRECONCILED", "maybe"),
        wrong("HTTP_ADDR", "localhost"),
        wrong("HTTP_ADDR", "192.0.2.1:3000"),
        wrong("GRPC_ADDR", "9000"),
        wrong("LOG_FORMAT", "xml"),
        wrong("LOG_LEVEL", "a=b=c"),
        wrong("LOG_LEVEL", "warning"),
        wrong("LOG_LEVEL", "error,info"),
        wrong("LOG_LEVEL", "5"),
        wrong("CONFIG_FILE", "/nowhere/config.yaml"),
        wrong("S3_SSL", "1"),
        wrong("S3_ENDPOINT", "http://127.0.0.1:1"),
        wrong("S3_ENDPOINT", NOWHERE),
    ];
    cases.push((vec!["archive"], program().unset("STREAMS_ARCHIVE"), vec!["STREAMS_ARCHIVE", "is not true"]));
    cases.push((vec!["archive"], program().set("STREAMS_ARCHIVE", "false"), vec!["STREAMS_ARCHIVE", "is not true"]));
    let without_bucket = program().unset("STREAMS_ARCHIVE").unset("S3_BUCKET");
    cases.push((vec!["recover"], without_bucket, vec!["a bucket is needed", "S3_BUCKET is not set"]));
    for (verb, database) in [("migrate", "postgres://nobody:secret@127.0.0.1:1/nothing"), ("status", "localhost:1")] {
        cases.push((vec![verb], program().set("POSTGRES_CONNECTION", database), vec!["POSTGRES_CONNECTION"]));
    }
    let ran = cases.into_iter().map(|(arguments, program, expected)| async move {
        let mut running = program.start(&arguments);
        while let Some(line) = running.line().await {
            assert!(!line.contains(" serving "), "the service starts all the same: {expected:?}");
        }
        (running.end().await, arguments, expected)
    });
    for (ended, arguments, expected) in join_all(ran).await {
        let line = ended.failed();
        assert!(line.starts_with("coldstream: "), "{arguments:?}: {line}");
        assert!(expected.iter().all(|word| line.contains(word)), "{arguments:?}: {line} says nothing of {expected:?}");
        assert!(!line.contains("secret"), "{line}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_says_what_no_variable_does() {
    let mut world = World::new().await;
    let known = world.variables();
    let mut lines: Vec<String> = known.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    lines.push("STREAMS_ARCHIVE=true\nSTREAMS_ARCHIVE_SIZE=0".into());
    let program = Program::bare();
    program.write(".env", lines.join("\n"));
    assert!(program.run(&["archive"]).await.failed().contains("STREAMS_ARCHIVE_SIZE"));
    let program = program.set("STREAMS_ARCHIVE_SIZE", 3);
    assert!(program.run(&["archive"]).await.succeeded().starts_with("archived 0 events"), "variables win");
    program.write(".env", "what is this");
    assert!(program.run(&["archive"]).await.failed().contains(".env"));
    // A file in a folder above is another program's.
    let above = Program::bare();
    above.write(".env", lines.join("\n"));
    std::fs::create_dir(above.folder().join("below")).unwrap();
    assert!(above.below("below").run(&["status"]).await.failed().contains("POSTGRES_CONNECTION is not set"));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_twice_is_migrating_once() {
    let mut world = World::new().await;
    let program = Program::new(&world, 3).unset("STREAMS_ARCHIVE");
    for _ in 0..2 {
        assert_eq!(program.run(&["migrate"]).await.succeeded(), "the tables are up to date\n");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_need_a_bucket_and_hot_events_none() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    // A service that never archived needs no bucket.
    let names = ["STREAMS_ARCHIVE", "S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_BUCKET", "S3_SSL"];
    let without = || names.into_iter().fold(Program::new(&world, 3), |program, name| program.unset(name));
    assert!(without().run(&["status"]).await.succeeded().contains("orders"));
    assert_eq!(archive(&store).await, 3);
    for verb in ["serve", "status"] {
        let line = without().run(&[verb]).await.failed();
        assert!(line.contains("events have been archived") && line.contains("S3_ENDPOINT is not set"), "{line}");
    }
    world.proxy.script(|_| Fate::LoseRequest);
    let service = Service::start(Program::new(&world, 3)).await;
    let url = |id: &str| format!("{}/v1/topics/orders/events/{id}?tenant=acme", service.http);
    assert_eq!(reqwest::get(url("event-3")).await.unwrap().status(), 200);
    assert_eq!(reqwest::get(url("event-1")).await.unwrap().status(), 503);
    world.proxy.heal();
    assert_eq!(reqwest::get(url("event-1")).await.unwrap().status(), 200);
    service.finish().await;
    world.audit().await;
}

/// Returns an event as a line of an import.
fn line(number: usize) -> String {
    let NewEvent { id, stream, event_type, raised_at, payload, .. } = old_event(number);
    format!(
        r#"{{"id":"{id}","tenant_id":"acme","topic":"orders","stream":"{stream}","type":"{event_type}","raised_at":"{}","metadata":{{"correlation_id":"correlation-{number}","deployment_id":0}},"payload":{}}}"#,
        raised_at.unwrap().to_rfc3339(),
        payload.as_str(),
    )
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| line(number) + "\n").collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_imported_from_wherever_they_are() {
    let mut world = World::new().await;
    let program = Program::new(&world, 4).unset("STREAMS_ARCHIVE");
    program.write("plain.ndjson", lines(0..3));
    // Gzip files are often joined, and their last line does not always end with a line break.
    let mut gzip = Vec::new();
    for text in [lines(3..5), line(5)] {
        let mut out = GzEncoder::new(&mut gzip, Compression::default());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap();
    }
    let gzip = program.write("zipped.ndjson.gz", gzip);
    let piped = program.write("piped", format!("\n{}\r\n\n", lines(5..8)));
    let said = |output: String, imported: usize, skipped: usize| {
        let is_said = output.starts_with(&format!("imported {imported} events in "));
        assert!(is_said && output.ends_with(&format!("skipped {skipped} that were there\n")), "{output}");
    };
    said(program.run(&["import", "plain.ndjson"]).await.succeeded(), 3, 0);
    let known = sqlx::query_scalar("SELECT reltuples FROM pg_class WHERE oid = 'events'::regclass");
    let known: f32 = known.fetch_one(&world.sql).await.unwrap();
    assert_eq!(known, 3.0, "the planner knows how many events there are");
    said(program.run(&["import", gzip.to_str().unwrap()]).await.succeeded(), 3, 0);
    said(program.run_on(&["import", "-"], &piped).await.succeeded(), 2, 1);
    said(program.run_on(&["import", "-"], &gzip).await.succeeded(), 0, 3);
    let store = world.store(settings(4));
    assert_eq!(archive(&store).await, 8);
    said(program.run(&["import", "plain.ndjson"]).await.succeeded(), 0, 3);
    let expected = in_order(0..8);
    assert_eq!(read_all(&store, &world.log()).await, expected);
    let nowhere = program.run(&["import", "nowhere.ndjson"]).await.failed();
    assert!(nowhere.contains("nowhere.ndjson cannot be read"), "{nowhere}");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_line_is_named_and_what_came_before_it_is_kept() {
    let mut world = World::new().await;
    let program = Program::new(&world, 4).unset("STREAMS_ARCHIVE");
    let good = line(0);
    let bad = [
        "{".to_owned(),
        "[]".to_owned(),
        good.replace("\"type-0\"", "\"\""),
        good.replace("\"topic\":\"orders\"", "\"topic\":\"\""),
        good.replace("\"acme\"", r#""a\u0000b""#),
        good.replace("event-0", &"x".repeat(256)),
        good.replace("event-0", ""),
        good.replace("\"payload\":", "\"payload\":1,\"more\":"),
        good.replace("\"raised_at\":\"2", "\"raised_at\":\"x"),
        good.replace("Z\",\"metadata\"", "1Z\",\"metadata\""),
    ];
    let mut count = 0;
    for bad in &bad {
        assert!(*bad != good);
        program.write("events.ndjson", format!("{}{bad}\n{}", lines(count..count + 2), line(99)));
        let said = program.run(&["import", "events.ndjson"]).await.failed();
        assert!(said.contains("events.ndjson, line 3: "), "{bad}: {said}");
        count += 2;
        assert_eq!(read_all(&world.store(settings(1)), &world.log()).await.len(), count, "{bad}");
    }
    world.audit().await;
}

/// An export has the GDPR data of a field that an edit has erased, and such a line is imported as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gdpr_data_of_an_erased_field_are_no_reason_to_refuse_a_line() {
    let mut world = World::new().await;
    let program = Program::new(&world, 4).unset("STREAMS_ARCHIVE");
    let gdpr = r#""gdpr":{"name":{"id":"person-7","default":"?"},"erased":{"id":"person-7","default":"?"}}"#;
    let personal = line(0).replace("\"metadata\"", &format!("{gdpr},\"metadata\""));
    program.write("events.ndjson", personal);
    program.run(&["import", "events.ndjson"]).await.succeeded();
    let [event] = read_all(&world.store(settings(1)), &world.log()).await.try_into().unwrap();
    let default = GdprField::new("person-7".into(), Json::parse("\"?\"").unwrap()).unwrap();
    assert_eq!(event.gdpr, Gdpr::from([("name".to_owned(), default)]));
    assert_eq!(event.payload, old_event(0).payload);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_counts_what_is_where() {
    let mut world = World::new().await;
    let program = Program::new(&world, 1_000);
    let empty = program.run(&["status"]).await.succeeded();
    assert!(empty.contains("last archive run: none yet"), "{empty}");
    import(&world.store(settings(1)), &world.log(), (0..1_234).map(old_event)).await;
    assert!(program.run(&["archive"]).await.succeeded().starts_with("archived 1,000 events in 1 objects"));
    let Ended { output, errors, code } = program.run(&["status"]).await;
    assert!(code == Some(0) && errors.iter().all(|line| line.contains(" INFO ")), "{errors:?}");
    let row = output.lines().find(|line| line.starts_with("acme")).unwrap();
    let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!((&cells[..4], cells[5]), (&["acme", "orders", "1,234", "234"][..], "1,000"), "{output}");
    let oldest = old_event(1_000).raised_at.unwrap().to_rfc3339();
    assert_eq!(cells.last(), Some(&oldest.as_str()));
    assert!(output.contains("1,000 events in 1 objects") && output.contains("succeeded"), "{output}");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_bucket_is_made() {
    let mut world = World::new().await;
    let name = format!("made-{}", uuid::Uuid::new_v4().simple());
    let program = Program::new(&world, 3).set("S3_BUCKET", name).set("LOG_FORMAT", "json");
    for is_made in [true, false] {
        let ended = program.run(&["archive"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.errors.iter().any(|line| line.contains("bucket made")), is_made, "{ended:?}");
    }
    world.audit().await;
}
