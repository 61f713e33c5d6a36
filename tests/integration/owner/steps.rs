//! Another database adopts the bucket while this one is in the middle of something: the next step, whichever it is,
//! does not happen in the bucket, and no row leaves for it.

use std::sync::Arc;

use coldstream::database::catalog::archives::Archive;
use coldstream::event::{Log, PositionRange};
use coldstream::store::{Error, Selection, Store, SweepRequest};
use time::Duration;

use super::{contents, is_fenced};
use crate::support::{Backup, Kind, Mover, Step, World, archive, edit, import, old_event, read_all, settings, unpaced};

const BATCH: u64 = 4;

/// A world that has one archive with a pending edit, four events that are due, and a clone.
struct Scene {
    world: World,
    log: Log,
    store: Arc<Store>,
    archive: Archive,
    clone: Backup,
}

impl Scene {
    async fn new() -> Scene {
        let world = World::new().await;
        world.bucket.keep_versions().await;
        let log = world.log();
        let store = world.store_of(world.url(), settings(BATCH));
        import(&store, &log, (0..4).map(old_event)).await;
        store.claim_bucket().await.unwrap();
        assert_eq!(archive(&store).await, 4);
        edit(&store, &log, "event-1", r#"{"name":"pending"}"#).await;
        import(&store, &log, (4..8).map(old_event)).await;
        let archive = world.only_archive(&store).await;
        let clone = world.backup().await;
        Scene { world, log, store, archive, clone }
    }

    async fn adopted_by_the_clone(&self) {
        self.world.store_of(self.clone.url(), settings(BATCH)).adopt().await.unwrap();
    }

    async fn counts(&self) -> (i64, i64) {
        let counts = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM archives)";
        sqlx::query_as(counts).fetch_one(&self.world.sql).await.unwrap()
    }

    /// Checks that the bucket is what it was and that nothing is lost; then the first database adopts the bucket again.
    async fn finish(mut self, step: Step, outcome: Result<(), Error>, expected: Expected) {
        let why = outcome.expect_err(&format!("{step:?}")).to_string();
        assert!(is_fenced(&why) || why.contains("not this database's any more"), "{step:?}: {why}");
        assert_eq!(contents(&self.world).await, expected.contents, "{step:?}");
        assert_eq!(self.world.bucket.versions().await.len(), expected.versions, "{step:?}");
        assert_eq!(self.counts().await, expected.counts, "{step:?}");
        self.store.adopt().await.unwrap();
        self.world.recover(&self.store).await;
        assert_eq!(read_all(&self.store, &self.log).await.len(), 8, "{step:?}");
        self.world.audit().await;
    }

    async fn expected(&self) -> Expected {
        let (contents, counts) = (contents(&self.world).await, self.counts().await);
        Expected { contents, versions: self.world.bucket.versions().await.len(), counts }
    }
}

/// A state that is to be the same after the step.
struct Expected {
    contents: std::collections::BTreeMap<String, Vec<u8>>,
    versions: usize,
    counts: (i64, i64),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archiver_that_lost_the_bucket() {
    for last in [Step::Claimed, Step::Uploaded, Step::ReadBack] {
        let scene = Scene::new().await;
        let mut archiver = Mover::archiver(&scene.store, scene.world.lease(&scene.log).await, last).await;
        scene.adopted_by_the_clone().await;
        let expected = scene.expected().await;
        if last == Step::Uploaded {
            archiver = archiver.drive(Step::ReadBack).await.unwrap();
        }
        let outcome = archiver.next().await.map(drop);
        scene.finish(last, outcome, expected).await;
    }
}

/// The uploads of the previous owner are aborted: not even a request that is on its way completes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_about_to_be_completed() {
    let mut scene = Scene::new().await;
    let expected = scene.expected().await;
    let gate = scene.world.proxy.hold_first(Kind::CompleteUpload);
    let archiving = tokio::spawn({
        let store = Arc::clone(&scene.store);
        async move { store.archive(|_, _| {}).await.map(drop) }
    });
    gate.arrival().await;
    scene.adopted_by_the_clone().await;
    gate.open();
    archiving.await.unwrap().unwrap_err();
    assert_eq!(contents(&scene.world).await, expected.contents);
    assert_eq!(scene.counts().await, expected.counts);
    scene.store.adopt().await.unwrap();
    scene.world.recover(&scene.store).await;
    scene.world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewriter_that_lost_the_bucket() {
    for last in [Step::RewriteBegun, Step::RewriteUploaded, Step::Replaced] {
        let scene = Scene::new().await;
        let lease = scene.world.lease(&scene.log).await;
        let rewriter = Mover::rewriter(&scene.store, lease, scene.archive.id, last).await;
        scene.adopted_by_the_clone().await;
        let expected = scene.expected().await;
        let outcome = rewriter.next().await.map(drop);
        if last == Step::Replaced {
            // The catalog follows the object that is there, and the version before it stays.
            assert_eq!(expected.versions, 2);
            scene.world.expire_leases().await;
            assert!(is_fenced(&scene.store.sweep().await.unwrap_err().to_string()), "nor does a sweep purge it");
        }
        scene.finish(last, outcome, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restorer_that_lost_the_bucket() {
    for last in [Step::RestoreBegun, Step::RestWritten, Step::Restored] {
        let scene = Scene::new().await;
        let lease = scene.world.lease(&scene.log).await;
        let selection = Selection::Range(scene.log.clone(), PositionRange::closed(2, 3));
        let restorer = Mover::restorer(&scene.store, lease, scene.archive.id, &selection, None, last).await;
        scene.adopted_by_the_clone().await;
        let expected = scene.expected().await;
        let outcome = if last == Step::Restored {
            drop(restorer);
            // The object that the rows came from is nobody's here, and all that the clone has.
            scene.world.expire_leases().await;
            scene.store.sweep().await.map(drop)
        } else {
            restorer.next().await.map(drop)
        };
        scene.finish(last, outcome, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweeper_that_lost_the_bucket() {
    let scene = Scene::new().await;
    let lease = scene.world.lease(&scene.log).await;
    Mover::archiver(&scene.store, lease, Step::Uploaded).await;
    sqlx::query("DELETE FROM intents").execute(&scene.world.sql).await.unwrap();
    scene.world.expire_leases().await;
    let sweep = async |store: Arc<Store>| {
        let (unknown_older_than, uploads_older_than) = (Duration::ZERO, Duration::ZERO);
        let request = SweepRequest { is_dry: false, deletes_unknown: true, unknown_older_than, uploads_older_than };
        store.sweep_bucket(request, |_| {}).await.map(drop)
    };
    let gate = scene.world.proxy.hold_first(Kind::Head);
    let sweeping = tokio::spawn(sweep(Arc::clone(&scene.store)));
    gate.arrival().await;
    scene.adopted_by_the_clone().await;
    let expected = scene.expected().await;
    assert_eq!(expected.contents.len(), 2);
    gate.open();
    sweeping.await.unwrap().unwrap_err();
    assert_eq!(contents(&scene.world).await, expected.contents);
    let Scene { mut world, store, .. } = scene;
    store.adopt().await.unwrap();
    sweep(Arc::clone(&store)).await.unwrap();
    assert_eq!(contents(&world).await.len(), 1);
    world.recover(&store).await;
    world.audit().await;
}

/// A version that would be put back stays where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repairer_that_lost_the_bucket() {
    let scene = Scene::new().await;
    scene.world.bucket.delete(&scene.world.key(&scene.archive)).await;
    scene.adopted_by_the_clone().await;
    assert!(!scene.store.repair(&unpaced, |_| {}).await.unwrap().left.is_empty());
    assert!(contents(&scene.world).await.is_empty());
    scene.store.adopt().await.unwrap();
    assert_eq!(scene.store.repair(&unpaced, |_| {}).await.unwrap().left, []);
    let Scene { mut world, store, .. } = scene;
    world.recover(&store).await;
    world.audit().await;
}
