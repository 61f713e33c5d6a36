//! Old events move to S3 in whole batches; whatever happens on the way, nothing is lost and nothing is doubled.

use std::collections::BTreeSet;

use coldstream::event::{Eligibility, Event, Instant, Json, Log, NewEvent};
use coldstream::store::{Archived, Error, Settings, Store};
use futures::future::join_all;

use crate::support::{
    DAY_NANOS, Fate, Gate, Kind, World, archive, edit, import, now, old_event, older_than, payload, read_all, settings,
    unzip, young_event,
};

async fn hot_positions(world: &World) -> Vec<i64> {
    sqlx::query_scalar("SELECT position FROM events ORDER BY position").fetch_all(&world.sql).await.unwrap()
}

#[tokio::test]
async fn a_batch_is_never_smaller_and_no_object_larger() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(10)), world.log());
    import(&store, &log, (0..9).map(old_event)).await;
    assert_eq!(archive(&store).await, 0);
    assert!(world.bucket.keys().await.is_empty());
    import(&store, &log, (9..35).map(old_event)).await;
    let mut steps = Vec::new();
    let done = store.archive(|topic, done| steps.push((topic.log.clone(), done.events))).await.unwrap();
    assert_eq!(done, Archived { archives: 3, events: 30, put_off: 0 });
    assert_eq!(steps, [10, 20, 30].map(|events| (log.clone(), events)));
    let archives = store.archives(&log).await.unwrap();
    assert!(archives.iter().all(|archive| archive.count == 10));
    assert_eq!(hot_positions(&world).await, [31, 32, 33, 34, 35]);
    assert_eq!(archive(&store).await, 0);
    world.audit().await;
}

#[tokio::test]
async fn the_oldest_go_first_and_the_young_stay() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..5).map(old_event).chain((5..8).map(young_event)).chain((8..14).map(old_event))).await;
    assert_eq!(archive(&store).await, 8);
    let ranges: Vec<_> =
        store.archives(&log).await.unwrap().iter().map(|it| (it.first_position, it.last_position)).collect();
    assert_eq!(ranges, [(1, 4), (5, 11)], "an archive reaches across young events");
    assert_eq!(hot_positions(&world).await, [6, 7, 8, 12, 13, 14]);
    world.audit().await;
}

#[tokio::test]
async fn age_is_counted_from_when_an_event_was_raised() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), world.log());
    let minute = 60_000_000_000;
    let raised = [
        30 * DAY_NANOS + minute,
        30 * DAY_NANOS - minute,
        -365 * DAY_NANOS,
        now().unix_nanos() - i64::MIN / 2,
        now().unix_nanos() - i64::MAX,
    ];
    let raised = raised.map(|age| Instant::from_unix_nanos(now().unix_nanos().saturating_sub(age)));
    let events = raised.into_iter().enumerate();
    import(&store, &log, events.map(|(number, at)| NewEvent { raised_at: Some(at), ..old_event(number) })).await;
    assert_eq!(archive(&store).await, 2);
    assert_eq!(hot_positions(&world).await, [2, 3, 5], "the future is not old");
    assert_eq!(archive(&world.store(older_than(0, 1))).await, 3, "with 0 days everything is");
    assert_eq!(read_all(&store, &log).await.iter().map(|event| event.raised_at).collect::<Vec<_>>(), raised);
    world.audit().await;
}

#[tokio::test]
async fn each_topic_waits_for_its_own_batch_and_excluded_ones_for_ever() {
    let mut world = World::new().await;
    let excluded_topics = BTreeSet::from(["short-lived".to_owned()]);
    let base = settings(5);
    let store =
        world.store(Settings { eligibility: Eligibility { excluded_topics, ..base.eligibility.clone() }, ..base });
    let counts =
        [("a", "orders", 4), ("b", "orders", 4), ("a", "payments", 6), ("a", "short-lived", 9), ("", "short-lived", 9)];
    for (tenant, topic, count) in counts {
        import(&store, &Log::new(tenant, topic).unwrap(), (0..count).map(old_event)).await;
    }
    assert_eq!(archive(&store).await, 5);
    let [key] = world.bucket.keys().await.try_into().unwrap();
    assert!(key.starts_with("a/payments/"), "{key}");
    world.audit().await;
}

#[tokio::test]
async fn a_plain_reader_of_gzip_and_json_finds_every_field() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(2)), world.log());
    let raised_at = Some(Instant::parse("2020-02-29T23:59:59.000000001Z").unwrap());
    let personal = coldstream::event::GdprField::new("person-7".into(), Json::parse("\"?\"").unwrap()).unwrap();
    let full =
        NewEvent { raised_at, reason: "because".into(), gdpr: [("name".to_owned(), personal)].into(), ..old_event(1) };
    import(&store, &log, [NewEvent { raised_at, metadata: Default::default(), ..old_event(0) }, full]).await;
    archive(&store).await;
    let found = world.only_archive(&store).await;
    assert_eq!(world.bucket.keys().await, [format!("acme/orders/{}.json.gz", found.id)]);
    let text = unzip(&world.bucket.get(&world.key(&found)).await);
    let lines = [
        "[".to_owned(),
        format!(
            r#"{{"position":1,"id":"event-0","tenant_id":"acme","topic":"orders","stream":"stream-0","type":"type-0","raised_at":"2020-02-29T23:59:59.000000001Z","payload":{}}},"#,
            payload(0, "original")
        ),
        format!(
            r#"{{"position":2,"id":"event-1","tenant_id":"acme","topic":"orders","stream":"stream-1","type":"type-1","raised_at":"2020-02-29T23:59:59.000000001Z","reason":"because","metadata":{{"deployment_id":0,"correlation_id":"correlation-1"}},"payload":{},"gdpr":{{"name":{{"id":"person-7","default":"?","is_invalidated":false}}}}}}"#,
            payload(1, "original")
        ),
        "]".to_owned(),
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    world.audit().await;
}

#[tokio::test]
async fn a_large_batch_goes_in_members_and_parts() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(24)), world.log());
    // Base64 of what looks random compresses to three quarters.
    let noise = |number: usize| {
        let mut state = number as u64 + 1;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        hex::encode(bytes.take(400_000).collect::<Vec<u8>>())
    };
    let large = |number| {
        let payload = Json::parse_object(&format!(r#"{{"noise":"{}"}}"#, noise(number))).unwrap();
        NewEvent { payload, ..old_event(number) }
    };
    import(&store, &log, (0..24).map(large)).await;
    let hot = read_all(&store, &log).await;
    assert_eq!(archive(&store).await, 24);
    assert!(world.proxy.count(Kind::PutPart) > 1, "{:?}", world.proxy.take_seen());
    let reader = world.store(settings(24));
    assert_eq!(reader.event(&log, "event-17").await.unwrap().as_ref(), Some(&hot[16 + 1]));
    assert!(read_all(&reader, &log).await == hot);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_archivers_do_not_get_in_each_others_way() {
    let mut world = World::new().await;
    let log = world.log();
    let archivers = [world.store(settings(5)), world.store(settings(5))];
    for round in 0..4 {
        import(&archivers[0], &log, (round * 20..round * 20 + 20).map(old_event)).await;
        let moved = join_all(archivers.iter().map(|store| archive(store))).await;
        assert_eq!(moved.iter().sum::<i64>(), 20, "{moved:?}");
    }
    assert_eq!(read_all(&world.store(settings(5)), &log).await.len(), 80);
    world.audit().await;
}

async fn lease_expires_at(world: &World) -> time::OffsetDateTime {
    sqlx::query_scalar("SELECT lease_expires_at FROM topics").fetch_one(&world.sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_archiver_keeps_its_turn() {
    let mut world = World::new().await;
    let log = world.log();
    let lease_term = std::time::Duration::from_secs(1);
    let [slow, other] = [(); 2].map(|()| world.store(Settings { lease_term, ..settings(4) }));
    import(&slow, &log, (0..8).map(old_event)).await;
    let gate = hold_first(&world, Kind::PutPart);
    let archiving = tokio::spawn(async move { archive(&slow).await });
    gate.arrival().await;
    for _ in 0..4 {
        let expires_at = lease_expires_at(&world).await;
        // Longer than the first term in all.
        while lease_expires_at(&world).await == expires_at {}
        assert_eq!(archive(&other).await, 0, "it is not its turn");
        assert_eq!(other.sweep().await.unwrap(), 0);
    }
    gate.open();
    assert_eq!(archiving.await.unwrap(), 8);
    world.audit().await;
}

/// How far an archiver comes that is stopped on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Claimed,
    Uploaded,
    ReadBack,
    Committed,
}

const STEPS: [Step; 4] = [Step::Claimed, Step::Uploaded, Step::ReadBack, Step::Committed];

#[tokio::test]
async fn an_archiver_may_die_after_any_step() {
    for last in STEPS {
        let mut world = World::new().await;
        let log = world.log();
        let dying = world.store(settings(4));
        import(&dying, &log, (0..6).map(old_event)).await;
        let before = read_all(&dying, &log).await;
        let lease = world.lease(&log).await;
        let batch = dying.claim(lease).await.unwrap().unwrap();
        if last != Step::Claimed {
            let exported = batch.upload().await.unwrap();
            if last != Step::Uploaded {
                let verified = exported.read_back().await.unwrap();
                if last == Step::Committed {
                    assert_eq!(verified.commit().await.unwrap(), 4);
                }
            }
        }
        drop(dying);

        let next = world.store(settings(4));
        assert_eq!(next.sweep().await.unwrap(), 0, "{last:?}: its lease has not expired");
        assert_eq!(read_all(&next, &log).await, before, "{last:?}");
        world.expire_leases().await;
        assert_eq!(next.sweep().await.unwrap(), if last == Step::Committed { 0 } else { 1 }, "{last:?}");
        let objects = world.bucket.keys().await.len();
        assert_eq!(objects, if last == Step::Committed { 1 } else { 0 }, "{last:?}: orphans are deleted");
        assert_eq!(archive(&next).await, if last == Step::Committed { 0 } else { 4 }, "{last:?}");
        assert_eq!(read_all(&next, &log).await, before, "{last:?}");
        world.audit().await;
    }
}

#[tokio::test]
async fn an_archiver_that_lost_its_turn_changes_nothing_when_it_wakes() {
    for last in [Step::Claimed, Step::Uploaded, Step::ReadBack] {
        let mut world = World::new().await;
        let log = world.log();
        let (sleeper, other) = (world.store(settings(4)), world.store(settings(4)));
        import(&sleeper, &log, (0..6).map(old_event)).await;
        let before = read_all(&sleeper, &log).await;
        let lease = world.lease(&log).await;
        let batch = sleeper.claim(lease).await.unwrap().unwrap();
        let outcome = if last == Step::Claimed {
            take_over(&world, &other).await;
            batch.upload().await.err()
        } else {
            let exported = batch.upload().await.unwrap();
            if last == Step::Uploaded {
                take_over(&world, &other).await;
                exported.read_back().await.err()
            } else {
                let verified = exported.read_back().await.unwrap();
                take_over(&world, &other).await;
                verified.commit().await.err()
            }
        };
        let expected = match last {
            // Somebody has deleted its object.
            Step::Uploaded => matches!(outcome, Some(Error::Damaged(_))),
            _ => matches!(outcome, Some(Error::GaveWay(_))),
        };
        assert!(expected, "{last:?}: {outcome:?}");
        assert_eq!(read_all(&other, &log).await, before, "{last:?}");
        assert_eq!(store_counts(&other, &log).await, (1, 4), "{last:?}");
        world.audit().await;
    }
}

async fn take_over(world: &World, other: &Store) {
    world.expire_leases().await;
    assert_eq!(archive(other).await, 4);
}

async fn store_counts(store: &Store, log: &Log) -> (usize, i64) {
    let archives = store.archives(log).await.unwrap();
    (archives.len(), archives.iter().map(|archive| archive.count).sum())
}

/// The last moment at which somebody else can settle the intent: every byte is uploaded, and nothing completed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_aborted_cannot_be_completed() {
    let mut world = World::new().await;
    let log = world.log();
    let (sleeper, other) = (world.store(settings(4)), world.store(settings(4)));
    import(&sleeper, &log, (0..6).map(old_event)).await;
    let gate = hold_first(&world, Kind::CompleteUpload);
    let sleeping = tokio::spawn(async move { sleeper.archive(|_, _| {}).await });
    gate.arrival().await;
    take_over(&world, &other).await;
    gate.open();
    let outcome = sleeping.await.unwrap();
    assert!(matches!(outcome, Ok(Archived { events: 0, .. }) | Err(_)), "{outcome:?}");
    assert_eq!(store_counts(&other, &log).await, (1, 4));
    world.audit().await;
}

fn hold_first(world: &World, kind: Kind) -> Gate {
    let gate = Gate::new();
    let mut held = Some(gate.clone());
    world.proxy.script(move |request| match held.take_if(|_| request.kind == kind) {
        Some(gate) => Fate::Hold(gate),
        None => Fate::Pass,
    });
    gate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_during_the_upload_puts_the_batch_off() {
    for kind in [Kind::StartUpload, Kind::PutPart, Kind::CompleteUpload, Kind::Get] {
        let mut world = World::new().await;
        let log = world.log();
        let (archiver, editor) = (world.store(settings(4)), world.store(settings(4)));
        import(&archiver, &log, (0..6).map(old_event)).await;
        let gate = hold_first(&world, kind);
        let archiving = tokio::spawn(async move { (archiver.archive(|_, _| {}).await, archiver) });
        gate.arrival().await;
        edit(&editor, &log, "event-2", r#"{"name":"EDITED"}"#).await;
        gate.open();
        let (outcome, archiver) = archiving.await.unwrap();
        assert_eq!(outcome.unwrap(), Archived { put_off: 1, ..Archived::default() }, "{kind:?}");
        assert!(world.bucket.keys().await.is_empty(), "{kind:?}: what it had uploaded is gone");
        assert_eq!(read_all(&editor, &log).await[2].payload.as_str(), payload(2, "EDITED"));

        world.recover(&archiver).await;
        let object = unzip(&world.bucket.get(&world.key(&world.only_archive(&editor).await)).await);
        assert!(object.contains(&payload(2, "EDITED")) && !object.contains(&payload(2, "original")), "{kind:?}");
        assert_eq!(read_all(&world.store(settings(4)), &log).await[2].payload.as_str(), payload(2, "EDITED"));
        world.audit().await;
    }
}

/// What becomes of the k-th request of a run, and perhaps of all that follow.
#[derive(Debug, Clone, Copy)]
struct Loss {
    is_reply: bool,
    is_for_good: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_may_get_lost() {
    let losses = [(false, false), (false, true), (true, false), (true, true)];
    join_all(losses.map(|(is_reply, is_for_good)| lose_each(Loss { is_reply, is_for_good }))).await;
}

async fn lose_each(loss: Loss) {
    let mut world = World::new().await;
    let log = world.log();
    let mut events = 0;
    let mut expected: Vec<Event> = Vec::new();
    for k in 1.. {
        let archiver = world.store(settings(3));
        import(&archiver, &log, (events..events + 3).map(old_event)).await;
        events += 3;
        expected.extend(read_all(&archiver, &log).await.split_off(expected.len()));
        let mut count = 0;
        world.proxy.take_seen();
        world.proxy.script(move |_| {
            count += 1;
            match loss {
                Loss { is_for_good: true, .. } if count > k => Fate::LoseRequest,
                Loss { is_reply: true, .. } if count == k => Fate::LoseReply,
                Loss { is_reply: false, .. } if count == k => Fate::LoseRequest,
                _ => Fate::Pass,
            }
        });
        let outcome = archiver.archive(|_, _| {}).await;
        let requests = world.proxy.take_seen().len();
        world.proxy.heal();
        assert_eq!(read_all(&archiver, &log).await, expected, "{loss:?} {k}: {outcome:?}");
        drop(archiver);
        let next = world.store(settings(3));
        world.recover(&next).await;
        assert_eq!(store_counts(&next, &log).await.1, events as i64, "{loss:?} {k}: {outcome:?}");
        assert_eq!(read_all(&next, &log).await, expected, "{loss:?} {k}: {outcome:?}");
        world.audit().await;
        if requests < k {
            assert!(outcome.is_ok() && k > 4, "{loss:?} {k}: {outcome:?}");
            break;
        }
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let mut seen = Vec::new();
    world.proxy.script(move |request| {
        seen.push(request.kind);
        let is_busy = seen.iter().filter(|kind| **kind == request.kind).count() <= 2;
        if is_busy { Fate::Answer(503, "<Error><Code>SlowDown</Code></Error>") } else { Fate::Pass }
    });
    assert_eq!(archive(&store).await, 3);
    world.proxy.heal();
    world.audit().await;
}

#[tokio::test]
async fn completing_can_fail_behind_a_status_of_200() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let mut is_first = true;
    world.proxy.script(move |request| {
        if request.kind == Kind::CompleteUpload && std::mem::take(&mut is_first) {
            Fate::Answer(200, "<Error><Code>InternalError</Code></Error>")
        } else {
            Fate::Pass
        }
    });
    assert_eq!(archive(&store).await, 3);
    assert_eq!(world.proxy.count(Kind::CompleteUpload), 2);
    world.audit().await;
}

#[tokio::test]
async fn nothing_leaves_when_the_object_cannot_be_read_back_whole() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    world.proxy.script(|request| if request.kind == Kind::Get { Fate::CutBody(100) } else { Fate::Pass });
    let outcome = store.archive(|_, _| {}).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(hot_positions(&world).await, [1, 2, 3]);
    assert!(world.bucket.keys().await.is_empty());
    let run = store.status().await.unwrap().last_run.unwrap();
    assert!(run.error.is_some() && run.events == 0, "{run:?}");
    world.proxy.heal();
    assert_eq!(archive(&store).await, 3);
    world.audit().await;
}

#[tokio::test]
async fn without_s3_publishing_and_hot_reads_go_on() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    world.proxy.script(|_| Fate::LoseRequest);
    let outcome = store.archive(|_, _| {}).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    import(&store, &log, (3..6).map(old_event)).await;
    assert_eq!(read_all(&store, &log).await.len(), 6);
    world.proxy.heal();
    world.recover(&store).await;
    assert_eq!(store_counts(&store, &log).await, (2, 6));
    world.audit().await;
}

#[tokio::test]
async fn without_a_bucket_nothing_is_archived_and_archived_events_are_an_error() {
    let mut world = World::new().await;
    let (store, bare, log) = (world.store(settings(3)), world.store_without_bucket(), world.log());
    import(&bare, &log, (0..4).map(old_event)).await;
    assert!(matches!(bare.archive(|_, _| {}).await, Err(Error::NoBucket)));
    assert!(!bare.has_archives().await.unwrap());
    assert_eq!(archive(&store).await, 3);
    assert!(bare.has_archives().await.unwrap());
    assert!(matches!(bare.event(&log, "event-1").await, Err(Error::NoBucket)));
    assert_eq!(bare.event(&log, "event-3").await.unwrap().unwrap().position, 4);
    world.audit().await;
}

/// The connection breaks off while Postgres commits: the writer does not know, and must not clean up before it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_under_way_is_waited_for() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    let lease = world.lease(&log).await;
    store.claim(lease).await.unwrap().unwrap().upload().await.unwrap();
    let keys = world.bucket.keys().await;

    // What an archive's commit does last: it holds the topic's row, and takes the intent away.
    let mut committing = world.sql.begin().await.unwrap();
    sqlx::query("SELECT FROM topics FOR UPDATE").execute(&mut *committing).await.unwrap();
    sqlx::query("DELETE FROM intents").execute(&mut *committing).await.unwrap();
    sqlx::query("DELETE FROM events").execute(&mut *committing).await.unwrap();
    let settling = tokio::spawn({
        let store = store.clone();
        async move { store.claim(lease).await.unwrap().is_none() }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&world.sql).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.bucket.keys().await, keys, "nothing is deleted while nobody knows");
    committing.rollback().await.unwrap();
    assert!(!settling.await.unwrap(), "it was no commit, and the next batch is claimed");
    assert_ne!(world.bucket.keys().await, keys, "what nobody committed is gone");

    world.recover(&store).await;
    assert_eq!(read_all(&store, &log).await.len(), 4);
    world.audit().await;
}
