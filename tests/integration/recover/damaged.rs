//! An object that cannot be recovered is named, and keeps nothing else from being recovered.

use std::io::Write;

use coldstream::event::Log;
use flate2::{Compression, write::GzEncoder};
use uuid::Uuid;

use crate::recover::check_reads;
use crate::support::{Program, World, archive, edit, import, old_event, read_all, settings, unzip};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// The name of a case, the bytes and the metadata of its object, and words of the reason that is reported.
type Case = (&'static str, Vec<u8>, Vec<(String, String)>, &'static str);

/// Returns what can be wrong with an object that was `original`, beside an `other` one of the same log.
fn cases(original: &[u8], said: &[(String, String)], other: &[u8]) -> Vec<Case> {
    let lines = unzip(original);
    let saying = |name: &str, value: &str| {
        let mut said = said.to_vec();
        said.iter_mut().find(|(known, _)| known.ends_with(name)).unwrap().1 = value.to_owned();
        said
    };
    let mut flipped = original.to_vec();
    flipped[original.len() / 2] ^= 1;
    let two: Vec<&str> = lines.lines().collect();
    vec![
        ("an HTML page", b"<html><body>Please log in</body></html>".to_vec(), vec![], "does not say that it is this"),
        ("an HTML page in its name", b"<html></html>".to_vec(), said.to_vec(), "does not decompress"),
        ("empty", vec![], said.to_vec(), "it is empty"),
        ("not compressed", lines.clone().into_bytes(), said.to_vec(), "does not decompress"),
        ("flipped", flipped, said.to_vec(), ""),
        ("truncated", original[..original.len() - 1].to_vec(), said.to_vec(), "ends too early"),
        ("without its end", gzip(lines.trim_end().trim_end_matches(']')), said.to_vec(), ""),
        ("twice", [original, original].concat(), said.to_vec(), "not those of one array"),
        ("trailing garbage", [original, b"garbage, and more of it"].concat(), said.to_vec(), "does not decompress"),
        ("another archive's", other.to_vec(), said.to_vec(), "does not hold what it says"),
        ("shorter", gzip(&lines.replace(two[1], "").replace("[\n\n", "[\n")), said.to_vec(), "what it says of itself"),
        ("reordered", gzip(&[two[0], two[2], two[1], two[3], "]\n"].join("\n")), said.to_vec(), ""),
        ("another log's", gzip(&lines.replace("\"orders\"", "\"secrets\"")), said.to_vec(), "its events are of"),
        (
            "of two logs",
            gzip(&lines.replacen("\"acme\"", "\"evil\"", 4).replacen("\"evil\"", "\"acme\"", 1)),
            said.to_vec(),
            "another log",
        ),
        ("an unknown field", gzip(&lines.replace("\"stream\"", "\"streem\"")), said.to_vec(), "no event"),
        ("another version", original.to_vec(), saying("format", "2"), "its format is version 2"),
        ("no generation", original.to_vec(), saying("generation", "x"), "metadata are not those"),
        (
            "another id",
            original.to_vec(),
            saying("archive-id", &Uuid::nil().to_string()),
            "does not say that it is this",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_foreign_objects_are_reported_and_the_rest_is_recovered() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    let before = read_all(&store, &log).await;
    let victim = store.archives(&log).await.unwrap().remove(0);
    let (key, other_key) = (world.key(&victim), world.key(&store.archives(&log).await.unwrap()[1]));
    let (original, said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
    let other = world.bucket.get(&other_key).await;
    for (case, bytes, said, expected) in cases(&original, &said, &other) {
        world.bucket.put_saying(&key, bytes, &said).await;
        world.lose_database().await;
        let store = world.store(settings(4));
        let recovery = store.recover(|_| {}).await.unwrap();
        let [found] = recovery.unrecovered.try_into().unwrap();
        assert!(found.object == key && found.why.contains(expected), "{case}: {found:?}");
        assert_eq!((recovery.archives, recovery.gaps[0].gone), (1, 4), "{case}");
        check_reads(&store, &log, &before[4..]).await;
        let left = "SELECT count(*) FROM lookup_pages WHERE lookup_id = $1";
        let left: i64 = sqlx::query_scalar(left).bind(victim.id).fetch_one(&world.sql).await.unwrap();
        assert_eq!(left, 0, "{case}");
        let unreconciled = store.unreconciled().await.unwrap();
        let is_ours = said.iter().any(|(_, value)| *value == victim.id.to_string());
        assert_eq!((unreconciled.archives.len(), unreconciled.strangers.len()), (is_ours as usize, !is_ours as usize));
    }

    // An operator sees the same; an object that cannot be an archive is no failure.
    world.bucket.put_saying("notes/read-me.txt", b"hello".to_vec(), &[]).await;
    world.lose_database().await;
    let program = Program::new(&world, 4);
    let ended = program.run(&["recover"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let said_of = |text: &str| ended.output.lines().any(|line| line.contains(text));
    assert!(said_of(&key) && said_of("4 of 8 positions are gone") && said_of("1 other objects are no archives"));
    assert!(said_of("recovered 4 events in 1 objects"), "{ended:?}");
    assert!(ended.errors.last().unwrap().contains("1 objects were not recovered"), "{ended:?}");

    // The same command makes the log whole once the object is back: its positions are not gone any more.
    world.bucket.put_saying(&key, original, &said).await;
    let said = program.run(&["recover"]).await.succeeded();
    assert!(said.contains("recovered 4 events in 1 objects") && !said.contains("gone"), "{said}");
    check_reads(&world.store(settings(4)), &log, &before).await;
    world.bucket.delete("notes/read-me.txt").await;
    world.audit().await;
}

#[tokio::test]
async fn what_is_older_or_gone_is_reported() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    let [first, second] = store.archives(&log).await.unwrap().try_into().unwrap();
    let (key, missing) = (world.key(&first), world.key(&second));
    let (old, old_said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
    edit(&store, &log, "event-1", r#"{"name":"new"}"#).await;
    store.rewrite().await.unwrap();
    let before = read_all(&store, &log).await;
    let (new, new_said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
    let (other, other_said) = (world.bucket.get(&missing).await, world.bucket.said(&missing).await);

    world.bucket.put_saying(&key, old, &old_said).await;
    world.bucket.delete(&missing).await;
    let unrecovered = store.recover(|_| {}).await.unwrap().unrecovered;
    let found: Vec<_> = unrecovered.iter().map(|found| found.object.as_str()).collect();
    assert_eq!(found, [key.as_str(), missing.as_str()]);
    assert!(unrecovered[0].why.contains("generation 1") && unrecovered[1].why.contains("not there"), "{unrecovered:?}");
    // The archives are damaged, which is no sign that the database is of another time.
    assert_eq!(store.unreconciled().await.unwrap().archives, Vec::<String>::new());

    // Another database that believes to be this one has rewritten the object.
    let mut forked = new_said.clone();
    forked.iter_mut().find(|(name, _)| name.ends_with("write-id")).unwrap().1 = Uuid::new_v4().to_string();
    world.bucket.put_saying(&key, new.clone(), &forked).await;
    world.bucket.put_saying(&missing, other, &other_said).await;
    assert_eq!(store.unreconciled().await.unwrap().archives.len(), 2);
    let [found] = store.recover(|_| {}).await.unwrap().unrecovered.try_into().unwrap();
    assert!(found.why.contains("another database wrote generation 2"), "{found:?}");

    world.bucket.put_saying(&key, new, &new_said).await;
    store.recover(|_| {}).await.unwrap();
    assert_eq!(read_all(&store, &Log::new("acme", "orders").unwrap()).await, before);
    world.audit().await;
}
