//! One object's trouble stays one object's: it is named wherever it is met, and keeps nothing else from its turn.

mod deleting;
mod delivering;
mod reading;
mod recovering;
mod starting;

use std::sync::Arc;

use coldstream::database::catalog::archives::Archive;
use coldstream::event::{Event, Log};
use coldstream::store::{Error, Settings, Store, Trouble, TroubleKind};

use crate::support::{Fate, Kind, World, archive, import, old_event, read_all, settings};

const GLACIER: &str = "<Error><Code>InvalidObjectState</Code></Error>";
const NO_KEY: &str = "<Error><Code>KMS.DisabledException</Code></Error>";
const DENIED: &str = "<Error><Code>AccessDenied</Code></Error>";
const EVERY: &[Kind] = &[Kind::Get, Kind::Head, Kind::Delete, Kind::DeleteVersion];

/// A log whose positions 1 to 4 are in the archive that is in trouble, and 5 to 8 in another one; 9 and 10 are hot.
struct Scene {
    world: World,
    log: Log,
    victim: Archive,
    other: Archive,
    key: String,
    before: Vec<Event>,
}

fn batches_of_four() -> Settings {
    settings(4)
}

impl Scene {
    async fn new() -> Scene {
        Scene::over(World::new().await).await
    }

    async fn over(world: World) -> Scene {
        let (store, log) = (world.store(batches_of_four()), world.log());
        import(&store, &log, (0..10).map(old_event)).await;
        let before = read_all(&store, &log).await;
        assert_eq!(archive(&store).await, 8);
        let [victim, other] = store.archives(&log).await.unwrap().try_into().unwrap();
        let key = world.key(&victim);
        Scene { world, log, victim, other, key, before }
    }

    fn store(&self) -> Arc<Store> {
        self.world.store(batches_of_four())
    }

    /// Answers requests of these kinds about the victim like this from now on.
    fn refuse(&self, kinds: &'static [Kind], status: u16, body: &'static str) {
        let name = self.victim.id.to_string();
        self.world.proxy.script(move |request| match kinds.contains(&request.kind) && request.target.contains(&name) {
            true if request.kind == Kind::Head => Fate::Answer(status, ""),
            true => Fate::Answer(status, body),
            false => Fate::Pass,
        });
    }

    async fn troubles(&self) -> Vec<Trouble> {
        self.store().status().await.unwrap().troubles
    }

    /// Checks that there is one trouble: the victim cannot be read, deleted or recovered.
    async fn has_trouble(&self, kind: TroubleKind, case: &str) {
        let troubles = self.troubles().await;
        let found: Vec<_> = troubles.iter().map(|trouble| (trouble.archive_id, trouble.kind)).collect();
        assert_eq!(found, [(self.victim.id, kind)], "{case}: {troubles:?}");
    }

    fn is_named<T: std::fmt::Debug>(&self, outcome: &Result<T, Error>, case: &str) {
        match outcome {
            Err(error) if error.is_of_one_object() && error.to_string().contains(&self.victim.id.to_string()) => {}
            other => panic!("{case}: {other:?}"),
        }
    }

    async fn finish(mut self) {
        self.world.proxy.heal();
        self.world.audit().await;
    }
}
