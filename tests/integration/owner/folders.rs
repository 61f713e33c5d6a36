//! A database whose folder was copied has all that the original has, and knows its last claim: a standby that is
//! promoted stays the owner, and a backup that is restored beside the original writes nothing while that answers.

use std::sync::Arc;
use std::time::Duration;

use coldstream::store::{Error, Owner, Selection, Settings, Store, SweepRequest};

use super::{challenged, contents, is_fenced, marker};
use crate::support::{OwnPostgres, World, archive, edit, import, old_event, read_all, settings};

const BATCH: u64 = 4;
/// A time longer than any test lasts.
const FOR_EVER: Duration = Duration::from_secs(600);

fn waiting(takeover_wait: Duration) -> Settings {
    Settings { takeover_wait, ..settings(BATCH) }
}

/// Returns a server, its database with one archive and a pending edit, and the store that owns the bucket.
async fn scene() -> (OwnPostgres, World, Arc<Store>) {
    let postgres = OwnPostgres::start().await;
    let world = World::over(postgres.database()).await;
    let store = world.store_of(world.url(), settings(BATCH));
    import(&store, &world.log(), (0..4).map(old_event)).await;
    assert_eq!(store.claim_bucket().await.unwrap(), Owner::Ours);
    assert_eq!(archive(&store).await, 4);
    edit(&store, &world.log(), "event-1", r#"{"name":"pending"}"#).await;
    import(&store, &world.log(), (4..8).map(old_event)).await;
    (postgres, world, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_stays_the_owner() {
    let (primary, mut world, store) = scene().await;
    let standby = primary.copied().await;
    let before = read_all(&store, &world.log()).await;
    drop((store, primary));
    let store = world.store_of(&standby.existing().url, waiting(Duration::from_millis(1)));
    assert_eq!(store.bucket_owner().await.unwrap(), Owner::Restarted);
    assert_eq!(archive(&store).await, 4);
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert_eq!(
        (store.bucket_owner().await.unwrap(), &marker(&world).await["owner"]["epoch"]),
        (Owner::Ours, &2.into())
    );
    assert_eq!(read_all(&store, &world.log()).await, before);
    world.move_to(&standby);
    world.audit().await;
}

/// The copy's work waits for the owner's answer, and is given up when that comes; and so is all work after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_restored_beside_the_original_writes_nothing() {
    let (original, mut world, store) = scene().await;
    let selection = Selection::Archive(world.only_archive(&store).await.id);
    let before = contents(&world).await;
    let copied = original.copied().await;
    let copy = world.store_of(&copied.existing().url, waiting(FOR_EVER));
    let restoring = tokio::spawn({
        let (copy, selection) = (Arc::clone(&copy), selection.clone());
        async move { copy.restore(&selection, 0, |_| {}).await.map(drop) }
    });
    challenged(&world, &restoring).await;
    assert_eq!(contents(&world).await, before, "nothing is written while the copy waits");
    store.watch_bucket().await.unwrap();
    let (unknown_older_than, uploads_older_than) = (time::Duration::ZERO, time::Duration::ZERO);
    let sweep = SweepRequest { is_dry: false, deletes_unknown: true, unknown_older_than, uploads_older_than };
    let outcomes = [
        restoring.await.unwrap(),
        copy.restore(&selection, 0, |_| {}).await.map(drop),
        copy.archive(|_, _| {}).await.map(drop),
        copy.rewrite().await.map(drop),
        copy.sweep_bucket(sweep, |_| {}).await.map(drop),
    ];
    for outcome in outcomes {
        let Err(Error::Refused(why)) = outcome else { panic!("the owner has answered: {outcome:?}") };
        assert!(is_fenced(&why), "{why}");
    }
    assert_eq!(contents(&world).await, before);
    assert_eq!((store.rewrite().await.unwrap(), archive(&store).await), (1, 4));
    world.audit().await;
}

/// No process of the original answers: the copy goes on, and the original is kept out until an operator says which one
/// is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_that_does_not_answer_is_kept_out() {
    let (original, mut world, store) = scene().await;
    let copied = original.copied().await;
    let copy = world.store_of(&copied.existing().url, waiting(Duration::from_millis(1)));
    assert_eq!(archive(&copy).await, 4);
    let before = contents(&world).await;
    let why = store.rewrite().await.unwrap_err().to_string();
    assert!(is_fenced(&why), "{why}");
    assert!(store.archive(|_, _| {}).await.is_err() && store.fenced().is_some());
    assert_eq!(read_all(&store, &world.log()).await.len(), 8, "the original reads on");
    assert_eq!(contents(&world).await, before);
    assert_eq!(store.adopt().await.unwrap(), 3);
    assert!(is_fenced(&copy.rewrite().await.unwrap_err().to_string()));
    assert!(is_fenced(&copy.watch_bucket().await.map(|()| copy.fenced().unwrap()).unwrap()));
    assert_eq!(store.recover(|_| {}).await.unwrap().archives, 1);
    world.recover(&store).await;
    assert_eq!(store.fenced(), None);
    world.audit().await;
}

/// A challenger that dies is not the owner; the next process of its database goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_outlives_its_process() {
    let (primary, mut world, store) = scene().await;
    let standby = primary.copied().await;
    drop((store, primary));
    let dying = world.store_of(&standby.existing().url, waiting(FOR_EVER));
    let challenging = tokio::spawn(async move { dying.rewrite().await.map(drop) });
    challenged(&world, &challenging).await;
    challenging.abort();
    let store = world.store_of(&standby.existing().url, waiting(Duration::from_millis(1)));
    assert!(matches!(store.bucket_owner().await.unwrap(), Owner::Challenging { .. }));
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert_eq!(marker(&world).await["owner"]["epoch"], 2, "the challenge was the same");
    world.move_to(&standby);
    world.recover(&store).await;
    world.audit().await;
}
