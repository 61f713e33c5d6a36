//! A sweep deletes what nobody needs, tells what nobody knows, and leaves what is not ours.

use coldstream::event::PositionRange;
use coldstream::store::{Leftover, Selection, Store, SweepRequest};
use time::Duration;
use uuid::Uuid;

use crate::support::{
    Fate, Gate, Kind, MARKER, Mover, PROBE_PREFIX, Program, Step, World, archive, import, old_event, read_all, settings,
};

const REQUEST: SweepRequest = SweepRequest {
    is_dry: false,
    deletes_unknown: false,
    unknown_older_than: Duration::ZERO,
    uploads_older_than: Duration::ZERO,
};

async fn sweep(store: &Store, request: SweepRequest) -> (usize, Vec<Leftover>) {
    let mut told = Vec::new();
    let settled = store.sweep_bucket(request, |leftover| told.push(leftover)).await.unwrap();
    (settled, told)
}

/// Makes an archive, and an object of ours whose intent is lost. Returns the key of that object.
async fn with_unknown(world: &World, store: &Store) -> String {
    let log = world.log();
    import(store, &log, (0..8).map(old_event)).await;
    let lease = world.lease(&log).await;
    Mover::archiver(store, lease, Step::Uploaded).await;
    let [key] = world.bucket.keys().await.try_into().unwrap();
    for lost in ["DELETE FROM intents", "DELETE FROM lookup_pages"] {
        sqlx::query(lost).execute(&world.sql).await.unwrap();
    }
    world.expire_leases().await;
    assert_eq!(archive(store).await, 8);
    key
}

#[tokio::test]
async fn unknown_objects_are_told_and_go_when_it_is_said() {
    let mut world = World::new().await;
    let store = world.store(settings(8));
    let key = with_unknown(&world, &store).await;
    let unknown = |is_deleted| vec![Leftover::Unknown { key: key.clone(), is_deleted }];
    let young = SweepRequest { deletes_unknown: true, unknown_older_than: Duration::days(1), ..REQUEST };
    assert_eq!(sweep(&store, young).await, (0, vec![]), "the object may be on its way");
    assert_eq!(sweep(&store, REQUEST).await, (0, unknown(false)));
    let dry = SweepRequest { is_dry: true, deletes_unknown: true, ..REQUEST };
    assert_eq!(sweep(&store, dry).await, (0, unknown(false)));
    assert_eq!(world.bucket.keys().await.len(), 2);
    assert_eq!(sweep(&store, SweepRequest { deletes_unknown: true, ..REQUEST }).await, (0, unknown(true)));
    assert_eq!(sweep(&store, REQUEST).await, (0, vec![]));
    world.audit().await;
}

/// Returns a world whose database was restored to before an archive, and the key of the archive's object.
async fn restored_to_before_an_archive() -> (World, String) {
    let mut world = World::new().await;
    let store = world.store(settings(8));
    import(&store, &world.log(), (0..8).map(old_event)).await;
    let backup = world.backup().await;
    assert_eq!(archive(&store).await, 8);
    let key = world.key(&world.only_archive(&store).await);
    world.restore(&backup).await;
    (world, key)
}

/// The object is listed, and gone or taken over before the sweep comes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_vanishes_or_is_recovered_meanwhile_is_neither_told_nor_deleted() {
    for is_recovered in [false, true] {
        let (mut world, key) = restored_to_before_an_archive().await;
        let (store, other, log) = (world.store(settings(8)), world.store(settings(8)), world.log());
        let before = read_all(&store, &log).await;
        // The object has been listed; the request for its head waits, or what follows the answer.
        let gate = Gate::new();
        let mut held = Some(gate.clone());
        world.proxy.script(move |request| match held.take_if(|_| request.kind == Kind::Head) {
            Some(gate) if is_recovered => Fate::HoldReply(gate),
            Some(gate) => Fate::Hold(gate),
            None => Fate::Pass,
        });
        let request = SweepRequest { deletes_unknown: true, ..REQUEST };
        let sweeping = tokio::spawn(async move { sweep(&store, request).await });
        gate.arrival().await;
        world.proxy.heal();
        let expected = match is_recovered {
            true => {
                assert_eq!(other.recover(|_| {}).await.unwrap().archives, 1);
                vec![Leftover::Unknown { key, is_deleted: false }]
            }
            false => {
                world.bucket.delete(&key).await;
                vec![]
            }
        };
        gate.open();
        assert_eq!(sweeping.await.unwrap(), (0, expected));
        assert_eq!(read_all(&other, &log).await, before);
        world.audit().await;
    }
}

/// The lease of the topic keeps sweep and recovery apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_recovered_is_not_deleted_and_what_is_deleted_is_not_recovered() {
    for is_deleted_first in [true, false] {
        let (mut world, key) = restored_to_before_an_archive().await;
        let (store, other, log) = (world.store(settings(8)), world.store(settings(8)), world.log());
        let before = read_all(&store, &log).await;
        // Recovering reads the object; then, with the lease, it looks whether the object is still there.
        let gate = Gate::new();
        let (mut held, mut is_read) = (Some(gate.clone()), false);
        world.proxy.script(move |request| {
            let is_get = request.kind == Kind::Get && request.target.contains(".json.gz");
            let is_held = if is_deleted_first { is_get } else { is_read && request.kind == Kind::Head };
            is_read |= is_get;
            match held.take_if(|_| is_held) {
                Some(gate) => Fate::HoldReply(gate),
                None => Fate::Pass,
            }
        });
        let recovering = tokio::spawn(async move { other.recover(|_| {}).await.unwrap() });
        gate.arrival().await;
        world.proxy.heal();
        let swept = sweep(&store, SweepRequest { deletes_unknown: true, ..REQUEST }).await;
        assert_eq!(swept, (0, vec![Leftover::Unknown { key: key.clone(), is_deleted: is_deleted_first }]));
        gate.open();
        let recovery = recovering.await.unwrap();
        assert_eq!((recovery.archives, recovery.unrecovered.len()), if is_deleted_first { (0, 1) } else { (1, 0) });
        assert_eq!(read_all(&world.store(settings(8)), &log).await, before);
        world.audit().await;
    }
}

#[tokio::test]
async fn an_object_that_may_be_all_that_is_left_stays() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(8)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    let backup = world.backup().await;
    store.restore(&Selection::Range(log.clone(), PositionRange::closed(3, 4)), 0, |_| {}).await.unwrap();
    let key = world.key(&world.only_archive(&store).await);
    world.restore(&backup).await;
    let store = world.store(settings(8));
    let request = SweepRequest { deletes_unknown: true, ..REQUEST };
    assert_eq!(sweep(&store, request).await, (0, vec![Leftover::Unknown { key, is_deleted: false }]));
    assert_eq!(store.recover(|_| {}).await.unwrap().events, 6);
    assert_eq!(read_all(&store, &log).await.len(), 6);
    world.audit().await;
}

#[tokio::test]
async fn what_is_not_ours_stays() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(8)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    // The last one looks like ours by its name, and does not say so itself.
    let keys = ["acme/orders/notes.txt", "zzz", &format!("acme/orders/{}.json.gz", Uuid::new_v4())].map(str::to_owned);
    for key in &keys {
        world.bucket.put(key, b"mine".to_vec()).await;
    }
    let (settled, mut told) = sweep(&store, SweepRequest { deletes_unknown: true, ..REQUEST }).await;
    told.sort_by_key(|leftover| format!("{leftover:?}"));
    let mut expected: Vec<_> = keys.iter().map(|key| Leftover::Stranger { key: key.clone() }).collect();
    expected.sort_by_key(|leftover| format!("{leftover:?}"));
    assert_eq!((settled, told), (0, expected));
    for key in &keys {
        assert_eq!(world.bucket.get(key).await, b"mine");
        world.bucket.delete(key).await;
    }
    world.audit().await;
}

#[tokio::test]
async fn uploads_that_were_left_are_aborted() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..8).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    import(&store, &log, (8..12).map(old_event)).await;
    // One upload is of a dead writer, which an intent knows, one is known to nothing, and one is a stranger's.
    Mover::archiver(&store, world.lease(&log).await, Step::Claimed).await;
    let id: Uuid = sqlx::query_scalar("SELECT archive_id FROM intents").fetch_one(&world.sql).await.unwrap();
    let (known, lost) = (format!("acme/orders/{id}.json.gz"), format!("acme/orders/{}.json.gz", Uuid::new_v4()));
    for key in [known.as_str(), &lost, "strange"] {
        world.bucket.begin_upload(key).await;
    }
    let upload = |is_aborted| vec![Leftover::Upload { key: lost.clone(), is_aborted }];
    assert_eq!(sweep(&store, SweepRequest { is_dry: true, ..REQUEST }).await, (0, upload(false)));
    assert_eq!(sweep(&store, REQUEST).await, (0, upload(true)), "the writer may live");
    world.expire_leases().await;
    assert_eq!(sweep(&store, REQUEST).await, (1, vec![]));
    assert_eq!(world.bucket.unfinished_uploads().await, ["strange"]);
    world.bucket.abort_uploads("strange").await;
    assert_eq!(archive(&store).await, 4);
    world.audit().await;
}

#[tokio::test]
async fn what_a_probe_left_goes_and_the_marker_stays() {
    let mut world = World::new().await;
    let store = world.store(settings(8));
    let (probe, probed_upload) = (format!("{PROBE_PREFIX}1"), format!("{PROBE_PREFIX}2"));
    store.claim_bucket().await.unwrap();
    let marker = world.bucket.get(MARKER).await;
    world.bucket.put(&probe, b"probe".to_vec()).await;
    let young = SweepRequest { uploads_older_than: Duration::days(1), ..REQUEST };
    assert_eq!(sweep(&store, young).await, (0, vec![]), "the process may live");
    world.bucket.begin_upload(&probed_upload).await;
    let told = |is_gone| {
        let upload = Leftover::Upload { key: probed_upload.clone(), is_aborted: is_gone };
        (0, vec![Leftover::Probe { key: probe.clone(), is_deleted: is_gone }, upload])
    };
    assert_eq!(sweep(&store, SweepRequest { is_dry: true, ..REQUEST }).await, told(false));
    assert_eq!(sweep(&store, REQUEST).await, told(true));
    assert_eq!(sweep(&store, REQUEST).await, (0, vec![]));
    assert_eq!(world.bucket.get(MARKER).await, marker);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_a_line_each() {
    let mut world = World::new().await;
    let store = world.store(settings(8));
    let key = with_unknown(&world, &store).await;
    let program = || Program::new(&world, 8);
    store.claim_bucket().await.unwrap();
    assert_eq!(program().run(&["sweep"]).await.succeeded(), "settled 0 intents of writers that died\n");
    let dry = ["sweep", "--dry-run", "--older-than-days", "0", "--delete-unknown"];
    assert!(program().run(&dry).await.succeeded().starts_with(&format!("unknown: {key}\n")));
    let said = program().run(&["sweep", "--older-than-days", "0", "--delete-unknown"]).await.succeeded();
    assert!(said.starts_with(&format!("unknown, deleted: {key}\n")), "{said}");
    let another = br#"{"format":1,"deployment_id":"00000000-0000-0000-0000-000000000000"}"#;
    world.bucket.put(MARKER, another.to_vec()).await;
    let said = program().run(&["sweep", "--older-than-days", "0", "--delete-unknown"]).await.failed();
    assert!(said.contains("is of another deployment"), "{said}");
    world.bucket.delete(MARKER).await;
    world.audit().await;
}
