//! Events that come once in the life of an installation do no harm: a clock that jumps, a bulk edit that is killed, a
//! batch larger than memory.

use coldstream::event::{Gdpr, GdprField, Json, NewEvent};
use coldstream::store::Archived;

use crate::support::{
    Fate, Gate, Kind, Mover, Program, SET_UP, StatementFate, Step, World, archive, edit, import, old_event, payload,
    publish, read_all, settings, unzip,
};

/// A dead writer's lease lasts as long as the clock says, and keeps nobody from anything but archiving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_back_delays_archiving_and_nothing_else() {
    let mut world = World::new().await;
    let (store, dying, log) = (world.store(settings(3)), world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    Mover::archiver(&dying, world.lease(&log).await, Step::Uploaded).await;
    let jump = "UPDATE logs SET lease_expires_at = lease_expires_at + interval '1 day'";
    sqlx::query(jump).execute(&world.sql).await.unwrap();
    assert_eq!(store.archive(|_, _| {}).await.unwrap(), Archived { put_off: 1, ..Archived::default() });
    assert_eq!(store.sweep().await.unwrap(), 0);
    publish(&store, &log, vec![old_event(3)]).await;
    edit(&store, &log, "event-1", r#"{"name":"NEW-VALUE"}"#).await;
    assert_eq!(read_all(&store, &log).await.len(), 4);
    world.recover(&store).await;
    assert_eq!(world.only_archive(&store).await.count, 3);
    assert_eq!(store.event(&log, "event-1").await.unwrap().unwrap().payload.as_str(), payload(1, "NEW-VALUE"));
    world.audit().await;
}

fn personal(number: usize) -> NewEvent {
    let field = GdprField::new("person-7".into(), Json::parse("\"gone\"").unwrap()).unwrap();
    NewEvent { gdpr: Gdpr::from([("name".to_owned(), field)]), ..old_event(number) }
}

/// The transaction of a bulk edit is over or never was; its rewrites are killed between two archives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_edit_that_is_killed_half_way_is_whole_for_readers_and_finished_by_the_next_run() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let direct = world.store(settings(3));
    import(&direct, &log, (0..9).map(personal)).await;
    assert_eq!(archive(&direct).await, 9);
    import(&direct, &log, (9..11).map(personal)).await;
    // Only what the test calls is under way in this store.
    let store = world.store_behind(&postgres, settings(3));
    let gone = async || {
        let events = read_all(&world.store(settings(3)), &log).await;
        events.iter().filter(|event| event.payload.as_str().contains(r#""name":"gone""#)).count()
    };
    for k in 1.. {
        let mut count = 0;
        postgres.script(move |statement| {
            count += i32::from(statement != SET_UP);
            if count == k && statement != SET_UP { StatementFate::LoseStatement } else { StatementFate::Pass }
        });
        let outcome = store.invalidate_gdpr(&log, "person-7").await;
        postgres.heal();
        if outcome.is_ok() {
            assert!(k > 5, "{k} statements are too few");
            break;
        }
        assert_eq!(gone().await, 0, "statement {k}: {outcome:?}");
    }
    assert_eq!(gone().await, 11);

    let gate = Gate::new();
    let (held, mut count) = (gate.clone(), 0);
    world.proxy.script(move |request| {
        count += usize::from(request.kind == Kind::CompleteUpload);
        if request.kind == Kind::CompleteUpload && count == 2 { Fate::Hold(held.clone()) } else { Fate::Pass }
    });
    let dying = Program::new(&world, 3).start(&["archive"]);
    gate.arrival().await;
    dying.kill().await;
    world.proxy.heal();
    assert_eq!(gone().await, 11, "one archive is rewritten, two are not");
    world.recover(&world.store(settings(3))).await;
    assert_eq!(gone().await, 11);
    for version in world.bucket.versions().await {
        assert!(!unzip(&version).contains("original"));
    }
    world.audit().await;
}

/// Memory is largest at this moment of an archive run: all of the batch has been uploaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_larger_than_memory_is_archived() {
    const EVENTS: usize = 160;
    const EVENT_BYTES: usize = 1_000_000;
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(EVENTS as u64)), world.log());
    let large = |number| {
        let payload = Json::parse_object(&format!(r#"{{"filler":"{}"}}"#, "x".repeat(EVENT_BYTES))).unwrap();
        NewEvent { payload, ..old_event(number) }
    };
    import(&store, &log, (0..EVENTS).map(large)).await;
    let gate = world.proxy.hold_first(Kind::CompleteUpload);
    let archiving = Program::new(&world, EVENTS as u64).start(&["archive"]);
    gate.arrival().await;
    let peak = archiving.peak_memory_bytes();
    gate.open();
    assert_eq!(archiving.end().await.code, Some(0));
    assert!(peak < EVENTS * EVENT_BYTES / 2, "{peak} bytes");
    assert_eq!(world.only_archive(&store).await.count, EVENTS as i64);
    world.audit().await;
}
