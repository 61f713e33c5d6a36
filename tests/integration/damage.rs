//! A damaged object is an error that names it, never a short answer; whatever does not need the object goes on as ever.

use std::sync::Arc;

use coldstream::database::catalog::archives::Archive;
use coldstream::event::{Event, Filter, Log, NewEvent};
use coldstream::store::{Error, Query, Store};
use futures::StreamExt;

use crate::support::{
    Fate, Kind, Mover, Step, World, archive, edit, edit_request, everything, import, old_event, payload, publish,
    read_all, settings, unzip,
};

/// A log whose positions 1 to 10, of a type of their own, are in the archive that is to be damaged; 11 to 20 are in
/// another archive, and 21 to 25 are hot.
struct Scene {
    world: World,
    log: Log,
    victim: Archive,
    key: String,
    original: Vec<u8>,
    said: Vec<(String, String)>,
    before: Vec<Event>,
}

fn of_victim(number: usize) -> NewEvent {
    NewEvent { event_type: "of the victim".into(), stream: "of the victim".into(), ..old_event(number) }
}

impl Scene {
    async fn new() -> Scene {
        let world = World::new().await;
        let (store, log) = (world.store(settings(10)), world.log());
        import(&store, &log, (0..10).map(of_victim).chain((10..25).map(old_event))).await;
        let before = read_all(&store, &log).await;
        assert_eq!(archive(&store).await, 20);
        let victim = store.archives(&log).await.unwrap().remove(0);
        let key = world.key(&victim);
        let (original, said) = (world.bucket.get(&key).await, world.bucket.said(&key).await);
        Scene { world, log, victim, key, original, said, before }
    }

    fn store(&self) -> Arc<Store> {
        self.world.store(settings(10))
    }

    /// Puts other bytes in the object's place; if `is_known`, the catalog believes that it is the right object.
    async fn replace(&self, bytes: Vec<u8>, is_known: bool) {
        let etag = self.world.bucket.put(&self.key, bytes).await;
        if is_known {
            self.know(&etag).await;
        }
    }

    async fn know(&self, etag: &str) {
        self.world.expect_etag(self.victim.id, etag).await;
    }

    /// Checks that every read that needs the object fails and names it, and that everything else is as it was.
    async fn check(&self, case: &str) {
        let (store, log) = (self.store(), &self.log);
        let mut failures: Vec<Option<Error>> = Vec::new();
        for filter in [Filter::All, Filter::Types(vec!["of the victim".into()]), Filter::Stream("of the victim".into())]
        {
            let query = Query { filter, ..everything() };
            failures.push(store.read(log, &query).await.err());
            failures.push(store.read(log, &Query { from: 4, skip: 2, limit: 1, ..query.clone() }).await.err());
            let replayed: Vec<_> = store.replay(log.clone(), query).collect().await;
            failures.push(replayed.into_iter().last().and_then(Result::err));
        }
        failures.push(store.event(log, "event-5").await.err());
        failures.push(store.last_event(log, &["of the victim".to_owned()]).await.err());
        failures.push(store.edit(log, "event-5", &edit_request(r#"{"name":"x"}"#)).await.err());
        failures.push(store.publish(log, vec![of_victim(5)]).await.err());
        for (number, failure) in failures.into_iter().enumerate() {
            match failure {
                Some(Error::Damaged(why)) if why.contains(&self.key) => {}
                other => panic!("{case}, read {number}: {other:?}"),
            }
        }
        let findings = store.verify(|_| {}).await.unwrap();
        assert!(findings.iter().any(|found| found.archive_id == Some(self.victim.id)), "{case}: {findings:?}");
        let others = findings.iter().filter_map(|found| found.archive_id).filter(|id| *id != self.victim.id);
        assert_eq!(others.count(), 0, "{case}: {findings:?}");
        let elsewhere = store.read(log, &Query { from: 11, ..everything() }).await.unwrap();
        assert_eq!(elsewhere.events, self.before[10..], "{case}");
        assert_eq!(store.event(log, "event-15").await.unwrap().as_ref(), Some(&self.before[15]), "{case}");
        assert_eq!(store.last_event(log, &[]).await.unwrap().as_ref(), Some(&self.before[24]), "{case}");
        assert_eq!(publish(&store, log, vec![old_event(24)]).await[0].position, 25, "{case}");
    }

    /// Puts the object back, and checks that every event is as it was.
    async fn restore(mut self) {
        self.replace(self.original.clone(), true).await;
        let store = self.store();
        assert_eq!(read_all(&store, &self.log).await, self.before);
        self.world.audit().await;
    }
}

#[tokio::test]
async fn a_deleted_object() {
    let scene = Scene::new().await;
    scene.world.bucket.delete(&scene.key).await;
    scene.check("deleted").await;
    scene.restore().await;
}

/// The rewriter of the object died: its rewrite is given up, and keeps no later event from being archived.
#[tokio::test]
async fn an_object_that_is_gone_or_another_one_while_its_rewrite_is_left() {
    for is_deleted in [true, false] {
        let scene = Scene::new().await;
        let (store, log) = (scene.store(), &scene.log);
        let lease = scene.world.lease(log).await;
        edit(&store, log, "event-5", r#"{"name":"NEW-VALUE"}"#).await;
        Mover::rewriter(&store, lease, scene.victim.id, Step::RewriteUploaded).await;
        match is_deleted {
            true => scene.world.bucket.delete(&scene.key).await,
            false => drop(scene.world.bucket.put_saying(&scene.key, b"mine".to_vec(), &[]).await),
        }
        scene.world.expire_leases().await;
        import(&store, log, (25..35).map(old_event)).await;
        assert_eq!(archive(&store).await, 10);
        let findings = store.verify(|_| {}).await.unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].archive_id, Some(scene.victim.id));

        let said = scene.said.clone();
        let etag = scene.world.bucket.put_saying(&scene.key, scene.original.clone(), &said).await;
        scene.know(&etag).await;
        assert_eq!(store.rewrite().await.unwrap(), 1);
        assert_eq!(read_all(&scene.store(), log).await[5].payload.as_str(), payload(5, "NEW-VALUE"));
        let mut world = scene.world;
        world.audit().await;
    }
}

#[tokio::test]
async fn an_object_that_is_another_one() {
    let scene = Scene::new().await;
    let other = scene.store().archives(&scene.log).await.unwrap().remove(1);
    let mut flipped = scene.original.clone();
    flipped[scene.original.len() / 2] ^= 1;
    let cases = [
        ("empty", Vec::new()),
        ("truncated", scene.original[..scene.original.len() - 1].to_vec()),
        ("cut in half", scene.original[..scene.original.len() / 2].to_vec()),
        ("one bit flipped", flipped),
        ("another archive's", scene.world.bucket.get(&scene.world.key(&other)).await),
        ("trailing garbage", [&scene.original[..], b"garbage"].concat()),
        ("twice", [&scene.original[..], &scene.original[..]].concat()),
        ("an HTML page", b"<html><body>Service unavailable</body></html>".to_vec()),
        ("not compressed", unzip(&scene.original).into_bytes()),
    ];
    for (case, bytes) in cases {
        for is_known in [false, true] {
            scene.replace(bytes.clone(), is_known).await;
            scene.check(&format!("{case}, known: {is_known}")).await;
            scene.know(&scene.victim.etag).await;
        }
    }
    scene.restore().await;
}

/// The catalog has the sizes and the ETag of the changed object: only the content of its events can tell.
#[tokio::test]
async fn an_object_with_other_events() {
    let scene = Scene::new().await;
    let text = unzip(&scene.original);
    let lines: Vec<&str> = text.lines().collect();
    let mut swapped = lines.clone();
    swapped.swap(2, 3);
    let mut doubled = lines.clone();
    doubled[3] = doubled[2];
    let missing = [&lines[..3], &lines[4..]].concat();
    let more = lines[1].replace(r#""position":1,"#, r#""position":0,"#);
    let added = [&lines[..1], &[more.as_str()], &lines[1..]].concat();
    assert_ne!(more, lines[1]);
    let cases = [
        ("reordered", swapped.join("\n") + "\n"),
        ("doubled", doubled.join("\n") + "\n"),
        ("missing", missing.join("\n") + "\n"),
        ("added", added.join("\n") + "\n"),
        ("another tenant's", text.replace(r#""tenant_id":"acme""#, r#""tenant_id":"evil""#)),
        ("another topic's", text.replace(r#""topic":"orders""#, r#""topic":"ORDERS""#)),
        ("an unknown field", text.replace(r#""stream":"#, r#""streem":"#)),
        ("no JSON", text.replace(r#""payload":{"#, r#""payload":}"#)),
    ];
    for (case, text) in cases {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        // The catalog knows the size of the object, and of its only member.
        for table in [
            "UPDATE archives SET object_bytes = $2 WHERE id = $1",
            "UPDATE members SET byte_end = $2 WHERE archive_id = $1",
        ] {
            let size = bytes.len() as i64;
            sqlx::query(table).bind(scene.victim.id).bind(size).execute(&scene.world.sql).await.unwrap();
        }
        sqlx::query("UPDATE members SET json_bytes = $2 WHERE archive_id = $1")
            .bind(scene.victim.id)
            .bind(text.len() as i64)
            .execute(&scene.world.sql)
            .await
            .unwrap();
        scene.replace(bytes, true).await;
        scene.check(case).await;
    }
    let Archive { object_bytes, json_bytes, .. } = scene.victim;
    sqlx::query("UPDATE archives SET object_bytes = $2 WHERE id = $1")
        .bind(scene.victim.id)
        .bind(object_bytes)
        .execute(&scene.world.sql)
        .await
        .unwrap();
    sqlx::query("UPDATE members SET byte_end = $2, json_bytes = $3 WHERE archive_id = $1")
        .bind(scene.victim.id)
        .bind(object_bytes)
        .bind(json_bytes)
        .execute(&scene.world.sql)
        .await
        .unwrap();
    scene.restore().await;
}

#[tokio::test]
async fn any_bit_that_flips_is_noticed_or_harmless() {
    let scene = Scene::new().await;
    let mut noticed = 0;
    for at in (0..scene.original.len()).step_by(scene.original.len() / 60) {
        let mut bytes = scene.original.clone();
        bytes[at] ^= 1 << (at % 8);
        scene.replace(bytes, true).await;
        match scene.store().read(&scene.log, &everything()).await {
            // Nobody reads the time in a gzip header, for example.
            Ok(page) => assert_eq!(page.events, scene.before, "byte {at}"),
            Err(error) => {
                assert!(matches!(&error, Error::Damaged(why) if why.contains(&scene.key)), "byte {at}: {error:?}");
                noticed += 1;
            }
        }
    }
    assert!(noticed > 50, "{noticed}");
    scene.restore().await;
}

#[tokio::test]
async fn an_older_generation_put_back() {
    let mut scene = Scene::new().await;
    let store = scene.store();
    edit(&store, &scene.log, "event-5", r#"{"name":"ORIGINAL"}"#).await;
    store.rewrite().await.unwrap();
    scene.before = read_all(&store, &scene.log).await;
    let current = scene.world.bucket.get(&scene.key).await;
    scene.replace(scene.original.clone(), false).await;
    scene.check("an older generation").await;
    scene.original = current;
    scene.restore().await;
}

#[tokio::test]
async fn an_object_of_a_format_that_nobody_knows_yet() {
    let scene = Scene::new().await;
    let mut said = scene.world.bucket.said(&scene.key).await;
    let format = said.iter().position(|(name, _)| name == "x-amz-meta-format").expect("an object says its format");
    for (version, problem) in [("2", Some("version 2")), ("1", None)] {
        said[format].1 = version.to_owned();
        let etag = scene.world.bucket.put_saying(&scene.key, scene.original.clone(), &said).await;
        scene.know(&etag).await;
        if let Some(problem) = problem {
            scene.check(problem).await;
        }
    }
    scene.restore().await;
}

/// Objects are found by their rows, never by a list: an object that somebody else puts beside them is neither read nor
/// deleted.
#[tokio::test]
async fn a_strangers_object_inside_the_prefix() {
    let scene = Scene::new().await;
    let stranger = scene.key.replace(&scene.victim.id.to_string(), &uuid::Uuid::now_v7().to_string());
    let bytes = scene.world.bucket.get(&scene.key).await;
    scene.world.bucket.put(&stranger, bytes.clone()).await;
    let store = scene.store();
    assert_eq!(read_all(&store, &scene.log).await, scene.before);
    edit(&store, &scene.log, "event-5", r#"{"price":1}"#).await;
    scene.world.recover(&store).await;
    assert_eq!(read_all(&store, &scene.log).await.len(), scene.before.len());
    assert_eq!(scene.world.bucket.get(&stranger).await, bytes);
    scene.world.bucket.delete(&stranger).await;
    let mut world = scene.world;
    world.audit().await;
}

#[tokio::test]
async fn an_answer_that_is_no_object() {
    let mut scene = Scene::new().await;
    let page = "<html><body>Please log in</body></html>";
    scene.world.proxy.script(
        move |request| {
            if request.kind == Kind::Get { Fate::Answer(200, page) } else { Fate::Pass }
        },
    );
    let failure = scene.store().read(&scene.log, &Query { limit: 1, ..everything() }).await.err();
    assert!(matches!(&failure, Some(Error::Damaged(why)) if why.contains(&scene.key)), "{failure:?}");
    scene.world.proxy.script(|request| if request.kind == Kind::Get { Fate::CutBody(50) } else { Fate::Pass });
    let failure = scene.store().read(&scene.log, &Query { limit: 1, ..everything() }).await.err();
    assert!(matches!(&failure, Some(Error::Unavailable(why)) if why.contains(&scene.key)), "{failure:?}");
    scene.world.proxy.heal();
    assert_eq!(read_all(&scene.store(), &scene.log).await, scene.before);
    scene.world.audit().await;
}

#[tokio::test]
async fn a_damaged_object_is_not_rewritten_and_keeps_no_other_from_it() {
    let mut scene = Scene::new().await;
    let store = scene.store();
    for id in ["event-5", "event-15"] {
        edit(&store, &scene.log, id, r#"{"name":"edited"}"#).await;
    }
    scene.before = read_all(&store, &scene.log).await;
    let mut damaged = scene.original.clone();
    // This byte is of the time in the gzip header: no read would notice.
    damaged[4] ^= 1;
    for is_known in [false, true] {
        scene.replace(damaged.clone(), is_known).await;
        let failure = store.rewrite().await.err();
        assert!(matches!(&failure, Some(Error::Damaged(why)) if why.contains(&scene.key)), "{failure:?}");
        let archives = store.archives(&scene.log).await.unwrap();
        assert_eq!(archives.iter().map(|archive| archive.generation).collect::<Vec<_>>(), [1, 2]);
    }
    scene.replace(scene.original.clone(), true).await;
    scene.world.recover(&store).await;
    assert_eq!(read_all(&scene.store(), &scene.log).await, scene.before);
    scene.world.audit().await;
}

#[tokio::test]
async fn a_row_that_is_gone_is_noticed() {
    let scene = Scene::new().await;
    let row: (i64, String) = sqlx::query_as("DELETE FROM events WHERE position = 23 RETURNING position, id")
        .fetch_one(&scene.world.sql)
        .await
        .unwrap();
    assert_eq!(row, (23, "event-22".to_owned()));
    let failure = scene.store().read(&scene.log, &everything()).await.err();
    assert!(matches!(&failure, Some(Error::Damaged(why)) if why.contains("23")), "{failure:?}");
    assert_eq!(
        scene.store().read(&scene.log, &Query { limit: 22, ..everything() }).await.unwrap().events,
        scene.before[..22]
    );
    // The position is free for this event again, and for nothing else.
    sqlx::query(
        "INSERT INTO events SELECT log_id, 23, raised_at, deployment_id, 'event-22', stream, type, reason,
                correlation_id, causation_id, user_id, payload, gdpr FROM events WHERE position = 22",
    )
    .execute(&scene.world.sql)
    .await
    .unwrap();
    let mut world = scene.world;
    world.audit().await;
}
