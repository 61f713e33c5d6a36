//! Files are imported as they come out of editors, exports and pipes: however they are wrapped, wherever they are cut
//! off, and whether or not their events are there already.

use std::io::Write;

use coldstream::event::{Instant, Log, NewEvent};
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::support::{Program, World, archive, edit, in_order, old_event, older_than, read_all, settings};

const BEHIND: &str = "cannot be read: there is something behind the end of the compressed file";

/// Returns an event as an export writes it.
fn object(tenant: &str, number: usize) -> String {
    let NewEvent { id, stream, event_type, raised_at, payload, .. } = old_event(number);
    format!(
        r#"{{"id":"{id}","tenant_id":"{tenant}","topic":"orders","stream":"{stream}","type":"{event_type}","raised_at":"{}","metadata":{{"correlation_id":"correlation-{number}","deployment_id":0}},"payload":{}}}"#,
        raised_at.unwrap().to_rfc3339(),
        payload.as_str(),
    )
}

fn objects(tenant: &str) -> Vec<String> {
    (0..3).map(|number| object(tenant, number)).collect()
}

/// Formats a text over many lines, as people read it.
fn pretty(text: &str) -> String {
    serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(text).unwrap()).unwrap()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
}

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Returns what `import` prints at its end, without the time it took.
fn said(output: &str) -> (&str, &str) {
    let (imported, rest) = output.trim_end().split_once(" in ").expect("the output says how long it took");
    (imported, rest.split_once(" s, ").expect("the output says what was skipped").1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_file_is_laid_out_its_events_are_imported() {
    let mut world = World::new().await;
    let program = Program::new(&world, 4).unset("STREAMS_ARCHIVE");
    let lines = |tenant: &str| objects(tenant).join("\n");
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let files: [(&str, Vec<u8>, &str); 11] = [
        ("mark", format!("\u{feff}{}\r\n", objects("mark").join("\r\n")).into(), ""),
        ("blank", format!("\r\n{}\n \n\n", objects("blank").join("\n\n")).into(), "skipped 5 blank lines, "),
        ("array", format!("\u{feff}[{}]", objects("array").join(",")).into(), ""),
        ("pretty", pretty(&format!("[{}]", objects("pretty").join(","))).into(), ""),
        ("spread", objects("spread").iter().map(|text| pretty(text) + "\n").collect::<String>().into(), ""),
        ("joined", objects("joined").concat().into(), ""),
        ("gzip", gzip(&format!("[\n{}\n]", objects("gzip").join(",\n"))), ""),
        ("zstd", [&skippable, zstd(&object("zstd", 0)).as_slice(), &zstd(&object("zstd", 1)), &skippable].concat(), ""),
        ("parts", [gzip(&lines("parts")[..100]), gzip(&lines("parts")[100..])].concat(), ""),
        ("padded", [gzip(&lines("padded")), vec![0; 200_000]].concat(), ""),
        ("padded-zstd", [zstd(&lines("padded-zstd")), vec![0; 3]].concat(), ""),
    ];
    let store = world.store(settings(4));
    for (tenant, bytes, skipped) in files {
        program.write("events", &bytes);
        let count = if tenant == "zstd" { 2 } else { 3 };
        let output = program.run(&["import", "events"]).await.succeeded();
        let all_new = format!("{skipped}skipped 0 that were there");
        assert_eq!(said(&output), (format!("imported {count} events").as_str(), all_new.as_str()), "{tenant}");
        let expected = in_order(0..count);
        let read = read_all(&store, &Log::new(tenant, "orders").unwrap()).await;
        // The pretty printer of this test changes numbers.
        let comparable = |events: Vec<coldstream::event::Event>| match tenant {
            "pretty" | "spread" => events.into_iter().map(|event| event.id).collect::<Vec<_>>(),
            _ => events.iter().map(|event| format!("{event:?} {}", event.payload.as_str())).collect(),
        };
        assert_eq!(comparable(read), comparable(expected), "{tenant}");
        let output = program.run(&["import", "events"]).await.succeeded();
        let none_new = format!("{skipped}skipped {count} that were there");
        assert_eq!(said(&output), ("imported 0 events", none_new.as_str()), "{tenant}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_off_or_of_another_kind_is_named() {
    let mut world = World::new().await;
    let program = Program::new(&world, 4).unset("STREAMS_ARCHIVE");
    let two = |tenant: &str| format!("{}\n{}\n", object(tenant, 0), object(tenant, 1));
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 30].to_vec();
    let long = |tenant: &str| format!("{}{}{}", two(tenant), " ".repeat(200_000), object(tenant, 2));
    let files: [(&str, Vec<u8>, &str); 15] = [
        ("line", format!("{}{}", two("line"), &object("line", 2)[..60]).into(), "line 3: the file is cut off"),
        ("text", format!("{}{{\"id\":\"cut\n{}", two("text"), two("text")).into(), "line 3: a text"),
        ("array", format!("[\n{},\n{}\n", object("array", 0), object("array", 1)).into(), "line 4, event 2: the file"),
        ("gzip", cut(gzip(&long("gzip"))), "line 3: cannot be read: the compressed file is cut off"),
        (
            "zstd",
            [zstd(&two("zstd")), cut(zstd(&two("zstd")))].concat(),
            "line 3: cannot be read: the compressed file is cut off",
        ),
        ("cut-header", [gzip(&two("cut-header")), vec![0x1f, 0x8b, 8]].concat(), "the compressed file is cut off"),
        ("behind", [gzip(&two("behind")), b"more".to_vec()].concat(), BEHIND),
        ("behind-zeros", [gzip(&two("behind-zeros")), vec![0; 512], b"{}".to_vec()].concat(), BEHIND),
        ("behind-zstd", [zstd(&two("behind-zstd")), b"more than a frame".to_vec()].concat(), BEHIND),
        ("positional", format!("{}[\"a\",\"positional\"]", two("positional")).into(), "line 3: an array is no event"),
        (
            "none",
            br#"[null,"p-1","t","orders","s","a","2020-01-01T00:00:00Z","",{},{"n":1},{}]"#.into(),
            "line 1: an event",
        ),
        ("none", utf_16(&two("none")), "it is UTF-16"),
        ("none", utf_16(&format!("\u{feff}{}", two("none"))), "it is UTF-16"),
        ("none", b"BZh91AY&SY".into(), "bzip2"),
        ("latin", [two("latin").as_bytes(), b"{\"id\":\"\xe4\"}"].concat(), "line 3: invalid utf-8"),
    ];
    for (tenant, bytes, expected) in files {
        program.write("events", &bytes);
        let line = program.run(&["import", "events"]).await.failed();
        assert!(line.contains(expected), "{tenant}: {line} says nothing of {expected:?}");
        let there = read_all(&world.store(settings(4)), &Log::new(tenant, "orders").unwrap()).await;
        let kept = if tenant == "none" { 0 } else { 2 };
        assert_eq!(there.len(), kept, "{tenant}");
    }
    // An array of a type's fields in their order is no object, at any depth.
    for (field, array) in
        [("\"metadata\":{", "\"metadata\":[\"x\",\"\",\"\",0],\"more\":{"), ("\"payload\":{", "\"payload\":[{")]
    {
        program.write("events", object("none", 0).replace(field, array) + "]}");
        assert!(program.run(&["import", "events"]).await.failed().contains("line 1: "), "{array}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_event_under_a_known_id_is_told_wherever_the_first_one_is() {
    let mut world = World::new().await;
    let program = Program::new(&world, 2).unset("STREAMS_ARCHIVE");
    let (store, log) = (world.store(settings(2)), world.log());
    let other = |number: usize| object("acme", number).replace("original", "another");
    let import = async |content: String, arguments: &[&str]| {
        program.write("events", content);
        program.run(&[&["import", "events"], arguments].concat()).await
    };
    let ids = async || read_all(&store, &log).await.into_iter().map(|event| event.id).collect::<Vec<_>>();
    // The conflict is in one file: the events before it are kept, and no later event of the log is imported.
    let within = [object("acme", 0), object("acme", 0), object("acme", 1), other(0), object("acme", 2)].join("\n");
    let line = import(within.clone(), &[]).await.failed();
    assert!(
        line.contains("events, line 4: ") && line.contains("\"event-0\"") && line.contains("--skip-conflicts"),
        "{line}"
    );
    assert_eq!(ids().await, ["event-0", "event-1"]);
    let output = import(within, &["--skip-conflicts"]).await.succeeded();
    let skipped = "skipped 1 in conflict with others of their ids, skipped 3 that were there";
    assert_eq!(said(&output), ("imported 1 events", skipped));
    // From here on two events are archived, and one is hot; some were edited.
    assert_eq!(archive(&store).await, 2);
    for id in ["event-1", "event-2"] {
        edit(&store, &log, id, r#"{"name":"erased"}"#).await;
    }
    store.rename_type("orders", "type-0", "renamed").await.unwrap();
    for number in 0..3 {
        let output = import(object("acme", number), &[]).await.succeeded();
        assert_eq!(said(&output), ("imported 0 events", "skipped 1 that were there"), "{number}");
        let content = format!("[{},{}]", object("acme", 0), object("acme", number).replace("64.30", "64.3"));
        let line = import(content.clone(), &[]).await.failed();
        assert!(
            line.contains(&format!("line 1, event 2: another event of {log} has the id \"event-{number}\"")),
            "{line}"
        );
        import(content, &["--skip-conflicts"]).await.succeeded();
    }
    let at_another_time = object("acme", 0).replace("\"raised_at\":\"20", "\"raised_at\":\"19");
    assert!(import(at_another_time, &[]).await.failed().contains("line 1: another event"));
    assert_eq!(ids().await, ["event-0", "event-1", "event-2"]);
    store.rewrite().await.unwrap();
    world.audit().await;
}

/// Each is an `i64` of nanoseconds; the ones at both ends are the first and the last that exist.
const TIMES: [(&str, i64); 6] = [
    ("1677-09-21T00:12:43.145224192Z", i64::MIN),
    ("1969-07-20T20:17:40.000000001Z", -14_182_939_999_999_999),
    ("1969-12-31T23:59:59.999999999Z", -1),
    ("1970-01-01T00:00:00.000000000Z", 0),
    ("2262-01-01T05:30:00.123456789+05:30", 9_214_646_400_123_456_789),
    ("2262-04-11T23:47:16.854775807Z", i64::MAX),
];

/// The service is in one time zone and locale, the database in another; both speak in UTC and in plain digits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_of_1969_and_2262_come_back_in_any_time_zone_and_locale() {
    let mut world = World::new().await;
    for setting in ["timezone = 'Asia/Kolkata'", "datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'"] {
        let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&world.sql).await.unwrap();
        let statement = format!("ALTER DATABASE \"{name}\" SET {setting}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&world.sql).await.unwrap();
    }
    let program = ["LC_ALL", "LANG"].into_iter().fold(Program::new(&world, 1), |it, name| it.set(name, "tr_TR.UTF-8"));
    let program = program.set("TZ", "America/St_Johns").set("STREAMS_ARCHIVE_OLDER_THAN_DAYS", 0);
    let object = |(index, (time, _)): (usize, &(&str, i64))| {
        let of_day = object("acme", index);
        let (before, rest) = of_day.split_once("\"raised_at\":\"").unwrap();
        format!("{before}\"raised_at\":\"{time}\"{}", rest.split_once('"').unwrap().1)
    };
    program.write("events", TIMES.iter().enumerate().map(object).collect::<Vec<_>>().join("\n"));
    program.run(&["import", "events"]).await.succeeded();
    let store = world.store(older_than(0, 1));
    let times = async || {
        let events = read_all(&store, &world.log()).await;
        events.into_iter().map(|event| event.raised_at.unix_nanos()).collect::<Vec<_>>()
    };
    let expected = TIMES.map(|(_, nanos)| nanos);
    assert_eq!(times().await, expected);
    let hot = program.run(&["status"]).await.succeeded();
    assert!(hot.contains("1677-09-21T00:12:43.145224192Z"), "{hot}");
    // The events of the past are old enough after 30 days.
    let by_age = world.store(older_than(30, 4));
    assert_eq!(archive(&by_age).await, 4);
    assert_eq!(times().await, expected);
    let output = program.run(&["archive"]).await.succeeded();
    assert!(output.starts_with("archived 2 events"), "{output}");
    assert_eq!(times().await, expected);
    let again = program.run(&["import", "events"]).await.succeeded();
    assert_eq!(said(&again), ("imported 0 events", "skipped 6 that were there"));
    let texts = TIMES.map(|(_, nanos)| Instant::from_unix_nanos(nanos).to_rfc3339());
    assert_eq!(texts[4], "2262-01-01T00:00:00.123456789Z");
    program.run(&["restore", "--topic", "orders", "--tenant", "acme", "--from", "1", "--to", "6"]).await.succeeded();
    assert_eq!(times().await, expected);
    program.write("events", object((9, &("2262-04-11T23:47:16.854775808Z", 0))));
    assert!(program.run(&["import", "events"]).await.failed().contains("1677 to 2262"));
    world.audit().await;
}
