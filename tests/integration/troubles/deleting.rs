//! An object that may not be deleted, under a legal hold or retention, or for want of the right, holds nothing else up.

use coldstream::event::PositionRange;
use coldstream::store::{Leftover, Selection, SweepRequest, TroubleKind};
use time::Duration;

use super::{DENIED, Scene};
use crate::support::{Fate, Kind, Mover, Program, Step, World, archive, edit, import, old_event, payload, read_all};

async fn locked_scene() -> Scene {
    let world = World::new().await;
    world.bucket.keep_locked_versions().await;
    Scene::over(world).await
}

/// Restores the victim, whose object cannot be deleted then, and imports events to archive beside it.
async fn restored(scene: &Scene) {
    let store = scene.store();
    let restored = store.restore(&Selection::Archive(scene.victim.id), 30, |_| {}).await.unwrap();
    assert_eq!(restored.events, 4);
    import(&store, &scene.log, (10..18).map(old_event)).await;
}

/// Checks that the topic is archived, rewritten and restored as ever, and that no job asks again soon.
async fn everything_else_goes_on(scene: &Scene) {
    let (store, log) = (scene.store(), &scene.log);
    // Two events that were hot before are old enough, too.
    assert_eq!(archive(&store).await, 8);
    edit(&store, log, "event-6", r#"{"name":"new"}"#).await;
    assert_eq!(store.rewrite_due().await.unwrap(), 1);
    let range = Selection::Range(log.clone(), PositionRange::closed(5, 5));
    assert_eq!(store.restore(&range, 0, |_| {}).await.unwrap().events, 1);
    scene.has_trouble(TroubleKind::Delete, "everything else").await;
    scene.world.expire_leases().await;
    scene.world.proxy.take_seen();
    store.sweep_due().await.unwrap();
    let deletes = [Kind::Delete, Kind::DeleteVersion].map(|kind| scene.world.proxy.count(kind));
    assert_eq!(deletes, [0, 0], "jobs ask again rarely");
    assert_eq!(read_all(&store, log).await.len(), 18);
    assert_eq!(store.event(log, "event-6").await.unwrap().unwrap().payload.as_str(), payload(6, "new"));
}

/// Checks that the object is deleted once it may be, and that nothing is left.
async fn lifted(scene: Scene) {
    let store = scene.store();
    scene.world.expire_leases().await;
    assert_eq!(store.sweep().await.unwrap(), 1);
    assert_eq!(scene.troubles().await, []);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_under_legal_hold_keeps_nothing_of_its_topic_from_its_turn() {
    let scene = locked_scene().await;
    let version = scene.world.bucket.hold(&scene.key).await;
    restored(&scene).await;
    everything_else_goes_on(&scene).await;
    scene.world.expire_leases().await;
    scene.is_named(&scene.store().sweep().await, "asked for");
    assert_eq!(scene.world.bucket.keys().await.len(), 3, "the object that cannot be deleted is hidden at least");
    scene.world.bucket.release(&scene.key, &version).await;
    lifted(scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_that_is_retained_goes_when_its_time_is_over() {
    let scene = locked_scene().await;
    let version = scene.world.bucket.retain(&scene.key, "2999-01-01T00:00:00Z").await;
    restored(&scene).await;
    everything_else_goes_on(&scene).await;
    scene.world.bucket.retain_version(&scene.key, &version, "2020-01-01T00:00:00Z").await;
    lifted(scene).await;
}

/// The right to delete objects is missing, or the right to see versions is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_delete_can_do_all_else() {
    for denied in [&[Kind::Delete, Kind::DeleteVersion][..], &[Kind::ListVersions]] {
        let scene = Scene::new().await;
        scene.refuse(denied, 403, DENIED);
        restored(&scene).await;
        let (store, log) = (scene.store(), &scene.log);
        assert_eq!(archive(&store).await, 8, "{denied:?}");
        scene.has_trouble(TroubleKind::Delete, "no right").await;
        scene.world.expire_leases().await;
        scene.is_named(&store.sweep().await, "no right");
        assert_eq!(read_all(&store, log).await.len(), 18);
        scene.world.proxy.heal();
        lifted(scene).await;
    }
}

/// The ledger says that the old value is still there, and jobs ask rarely whether it can go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_is_refused_is_told_and_asked_again_rarely() {
    let scene = locked_scene().await;
    let (store, log) = (scene.store(), &scene.log);
    let version = scene.world.bucket.hold(&scene.key).await;
    let first = edit(&store, log, "event-1", r#"{"name":"first"}"#).await.edit.unwrap();
    assert_eq!(store.rewrite_due().await.unwrap(), 0, "an edit that is not purged is not done");
    scene.has_trouble(TroubleKind::Delete, "purged").await;
    scene.world.proxy.take_seen();
    store.sweep_due().await.unwrap();
    assert_eq!(scene.world.proxy.count(Kind::DeleteVersion), 0);
    // Edits are folded into the object all the same, and the version that they supersede goes, if it may.
    edit(&store, log, "event-2", r#"{"name":"second"}"#).await;
    store.rewrite_due().await.unwrap();
    let pending: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pending_edits").fetch_one(&scene.world.sql).await.unwrap();
    assert_eq!(pending, 0);
    assert_eq!(scene.world.bucket.versions().await.len(), 3, "two objects, and the one that is held");
    assert!(store.edit_by_id(first.id).await.unwrap().unwrap().purged_at.is_none());
    scene.world.bucket.release(&scene.key, &version).await;
    store.sweep().await.unwrap();
    assert!(store.edit_by_id(first.id).await.unwrap().unwrap().purged_at.is_some());
    assert_eq!(scene.troubles().await, []);
    scene.finish().await;
}

/// Nobody knows whether the object was replaced: its archive waits, and nothing else of the topic does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intent_that_cannot_be_settled_keeps_nothing_else_of_its_topic() {
    let scene = Scene::new().await;
    let (store, log) = (scene.store(), &scene.log);
    edit(&store, log, "event-1", r#"{"name":"first"}"#).await;
    let lease = scene.world.lease(log).await;
    Mover::rewriter(&store, lease, scene.victim.id, Step::RewriteUploaded).await;
    scene.world.expire_leases().await;
    scene.refuse(&[Kind::Head, Kind::Get], 403, DENIED);
    import(&store, log, (10..18).map(old_event)).await;
    assert_eq!(archive(&store).await, 8);
    edit(&store, log, "event-6", r#"{"name":"new"}"#).await;
    scene.is_named(&store.rewrite().await, "its own rewrite");
    assert_eq!(store.event(log, "event-6").await.unwrap().unwrap().payload.as_str(), payload(6, "new"));
    scene.world.proxy.heal();
    scene.world.expire_leases().await;
    store.sweep().await.unwrap();
    store.rewrite().await.unwrap();
    assert_eq!(store.event(log, "event-1").await.unwrap().unwrap().payload.as_str(), payload(1, "first"));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_name_what_they_cannot_delete_and_do_the_rest() {
    let scene = Scene::new().await;
    scene.refuse(&[Kind::Delete], 403, DENIED);
    restored(&scene).await;
    scene.world.expire_leases().await;
    let program = || Program::new(&scene.world, 4);
    scene.store().claim_bucket().await.unwrap();
    for words in [&["archive"][..], &["sweep", "--older-than-days", "0"]] {
        let ended = program().run(words).await;
        assert_eq!(ended.code, Some(1), "{words:?}: {ended:?}");
        assert!(ended.errors.last().unwrap().contains(&scene.key), "{words:?}: {ended:?}");
    }
    let archived = sqlx::query_scalar("SELECT sum(count)::bigint FROM archives").fetch_one(&scene.world.sql);
    let archived: i64 = archived.await.unwrap();
    assert_eq!(archived, 12);
    let status = program().run(&["status"]).await.succeeded();
    assert!(status.contains("not purged since") && status.contains(&scene.key), "{status}");
    scene.world.proxy.heal();
    program().run(&["archive"]).await.succeeded();
    assert!(!program().run(&["status"]).await.succeeded().contains("trouble"));
    scene.finish().await;
}

/// A sweep of the whole bucket tells what it may not look at, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_of_the_bucket_tells_what_is_refused() {
    let mut world = World::new().await;
    let (store, log) = (world.store(super::batches_of_four()), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    let backup = world.backup().await;
    assert_eq!(archive(&store).await, 4);
    let key = world.key(&world.only_archive(&store).await);
    world.restore(&backup).await;
    world.bucket.put_saying("zzz", b"mine".to_vec(), &[]).await;
    world.proxy.script(|request| match request.kind == Kind::Head && request.target.contains(".json.gz") {
        true => Fate::Answer(403, ""),
        false => Fate::Pass,
    });
    let store = world.store(super::batches_of_four());
    let request = SweepRequest {
        is_dry: false,
        deletes_unknown: true,
        unknown_older_than: Duration::ZERO,
        uploads_older_than: Duration::ZERO,
    };
    let mut told = Vec::new();
    assert_eq!(store.sweep_bucket(request, |leftover| told.push(leftover)).await.unwrap(), 0);
    let [Leftover::Refused { key: refused, why }, Leftover::Stranger { key: stranger }] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(*refused == key && why.contains(&key) && stranger == "zzz", "{told:?}");
    world.proxy.heal();
    world.bucket.delete("zzz").await;
    assert_eq!(store.recover(|_| {}).await.unwrap().archives, 1);
    world.audit().await;
}
