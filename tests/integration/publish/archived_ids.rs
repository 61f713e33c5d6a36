//! A publisher remembers which ids are archived, and asks Postgres no more than it has to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coldstream::event::{Log, NewEvent, PositionRange};
use coldstream::store::{Error, Selection, Store};

use super::positions;
use crate::support::{
    Mover, PostgresProxy, StatementFate, Step, World, archive, event, import, old_event, publish, settings, unpaced,
};

/// A publisher whose looks into lookup pages are counted.
struct Publisher {
    store: Arc<Store>,
    log: Log,
    looks: Arc<AtomicUsize>,
    /// Numbers of events that nobody has published.
    numbers: std::ops::RangeFrom<usize>,
    _postgres: PostgresProxy,
}

impl Publisher {
    async fn new(world: &World) -> Publisher {
        let postgres = world.postgres_proxy().await;
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&looks);
        postgres.script(move |statement| {
            counted.fetch_add(usize::from(statement.contains("WITH found AS")), Ordering::SeqCst);
            StatementFate::Pass
        });
        let store = world.store_behind(&postgres, settings(2));
        Publisher { store, log: world.log(), looks, numbers: 1_000.., _postgres: postgres }
    }

    /// Publishes a new event, and says whether its id was looked for.
    async fn looks_for_a_new_id(&mut self) -> bool {
        let looks = self.looks.load(Ordering::SeqCst);
        let number = self.numbers.next().unwrap();
        assert!(publish(&self.store, &self.log, vec![event(number)]).await[0].is_new);
        self.looks.load(Ordering::SeqCst) > looks
    }

    /// Returns once every archived id is in the filters.
    async fn learns(&mut self) {
        while self.looks_for_a_new_id().await {}
    }

    /// Checks that these events are there already, and that others cannot take their ids.
    async fn knows(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let again = publish(&self.store, &self.log, vec![old_event(number)]).await;
            assert_eq!((positions(&again), again[0].is_new), (vec![number as i64 + 1], false));
            let other = NewEvent { reason: "another".into(), ..old_event(number) };
            let refused = self.store.publish(&self.log, vec![other]).await;
            assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
        }
    }
}

/// Returns four events in two archives, and a publisher.
async fn archived() -> (World, Arc<Store>, Publisher) {
    let world = World::new().await;
    let other = world.store(settings(2));
    import(&other, &world.log(), (0..4).map(old_event)).await;
    assert_eq!(archive(&other).await, 4);
    let publisher = Publisher::new(&world).await;
    (world, other, publisher)
}

#[tokio::test]
async fn ids_are_looked_for_until_they_are_remembered() {
    let (mut world, other, mut publisher) = archived().await;
    assert!(publisher.looks_for_a_new_id().await, "nothing is remembered yet");
    publisher.knows(0..4).await;
    publisher.learns().await;
    publisher.knows(0..4).await;
    assert!(!publisher.looks_for_a_new_id().await);

    // Another process archives more.
    let log = world.log();
    let positions = positions(&publish(&other, &log, vec![old_event(4), old_event(5)]).await);
    assert_eq!(archive(&other).await, 2);
    for _ in 0..2 {
        let again = publish(&publisher.store, &log, vec![old_event(5), old_event(4)]).await;
        assert_eq!(again.iter().map(|it| it.position).collect::<Vec<_>>(), [positions[1], positions[0]]);
        publisher.knows(0..4).await;
        publisher.learns().await;
    }
    world.audit().await;
}

/// Merged lookups say nothing new.
#[tokio::test]
async fn merged_lookups_are_not_read_again() {
    let mut world = World::new().await;
    let (other, log) = (world.store(settings(2)), world.log());
    import(&other, &log, (0..20).map(old_event)).await;
    let lease = world.lease(&log).await;
    for _ in 0..10 {
        Mover::archiver(&other, lease, Step::Archived).await;
    }
    let mut publisher = Publisher::new(&world).await;
    publisher.learns().await;
    other.merge_lookups(lease).await.unwrap();
    assert!(!publisher.looks_for_a_new_id().await);
    publisher.knows(0..20).await;
    world.expire_leases().await;
    world.audit().await;
}

#[tokio::test]
async fn what_comes_back_from_archives_is_looked_for_again() {
    let (mut world, other, mut publisher) = archived().await;
    publish(&other, &world.log(), vec![old_event(4), old_event(5)]).await;
    publisher.learns().await;
    // As many events are archived afterwards as before, but other ones.
    let restored =
        other.restore(&Selection::Range(world.log(), PositionRange::closed(1, 2)), 30, |_| {}).await.unwrap();
    assert_eq!(restored.events, 2);
    assert_eq!(archive(&other).await, 2);
    publisher.knows(0..6).await;
    publisher.learns().await;
    publisher.knows(0..6).await;
    world.audit().await;
}

/// A publisher does not keep what it learned from damaged pages once these are repaired.
#[tokio::test]
async fn ids_of_an_archive_that_was_repaired_are_looked_for_again() {
    let (mut world, other, mut publisher) = archived().await;
    sqlx::query("DELETE FROM lookup_pages").execute(&world.sql).await.unwrap();
    publisher.learns().await;
    assert_eq!(other.repair(&unpaced, |_| {}).await.unwrap().repaired.len(), 2);
    publisher.knows(0..4).await;
    world.audit().await;
}
