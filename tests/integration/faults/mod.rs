//! Every request to S3 and every statement to Postgres meets every fate that it can have. Nothing is lost, nothing
//! comes twice, and what was not done is made up for afterwards, whatever was under way.

mod inherited;
mod kills;
mod postgres_away;
mod rare;
mod requests;
mod s3_away;
mod silence;
mod statements;
mod temporary;

use std::sync::Arc;
use std::time::Duration;

use coldstream::database;
use coldstream::event::{Json, Log};
use coldstream::store::{Error, Query, Store};

use crate::support::{
    Mover, Step, World, archive, edit_request, everything, import, in_order, old_event, payload, read_all, settings,
    unzip,
};

const BATCH: usize = 3;
const EDITED: usize = 1;
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns settings that wait for a database for as long as a busy machine needs, and not for much longer.
fn impatient(url: &str) -> database::Settings {
    let jobs_patience = Duration::from_secs(3);
    database::Settings { jobs_patience, ..database::Settings::new(url, 8).with_patience(Duration::from_secs(4)) }
}

/// The operation that is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Publish,
    Edit,
    Archive,
    Rewrite,
    /// The sweep of what an archiver and a rewriter that died have left.
    Sweep,
}

/// A world in which one log grows by a batch at a time, and the same event of another log is edited again and again.
/// The bucket keeps versions.
struct Scene {
    world: World,
    /// The store that nothing disturbs.
    calm: Arc<Store>,
    growing: Log,
    edited: Log,
    grown: usize,
    name: String,
    /// The names that the edited event had before.
    names: Vec<String>,
}

impl Scene {
    async fn new() -> Scene {
        let world = World::new().await;
        world.bucket.keep_versions().await;
        let (growing, edited) = (world.log(), Log::new("acme", "payments").unwrap());
        let calm = world.store(settings(BATCH as u64));
        import(&calm, &edited, (0..BATCH).map(old_event)).await;
        assert_eq!(archive(&calm).await, BATCH as i64);
        Scene { world, calm, growing, edited, grown: 0, name: "original".into(), names: Vec::new() }
    }

    /// Sees to it that the verb has something to do.
    async fn prepare(&mut self, verb: Verb) {
        let store = self.calm.clone();
        if matches!(verb, Verb::Archive | Verb::Sweep) {
            import(&store, &self.growing, (self.grown..self.grown + BATCH).map(old_event)).await;
            self.grown += BATCH;
        }
        if matches!(verb, Verb::Rewrite | Verb::Sweep) {
            self.rename();
            self.edit(&store).await.unwrap();
        }
        if verb == Verb::Sweep {
            Mover::archiver(&store, self.world.lease(&self.growing).await, Step::Uploaded).await;
            let [archive] = store.archives(&self.edited).await.unwrap().try_into().unwrap();
            let lease = self.world.lease(&self.edited).await;
            Mover::rewriter(&store, lease, archive.id, Step::Replaced).await;
            self.world.expire_leases().await;
        }
    }

    fn rename(&mut self) {
        let name = format!("name-{}.", self.names.len());
        self.names.push(std::mem::replace(&mut self.name, name));
    }

    async fn edit(&self, store: &Store) -> Result<(), Error> {
        let request = edit_request(&format!(r#"{{"name":"{}"}}"#, self.name));
        store.edit(&self.edited, &format!("event-{EDITED}"), &request).await.map(drop)
    }

    async fn publish(&self, store: &Arc<Store>) -> Result<(), Error> {
        let events = (self.grown..self.grown + BATCH).map(old_event).collect();
        store.publish(&self.growing, events).await.map(drop)
    }

    async fn attempt(&mut self, store: &Arc<Store>, verb: Verb) -> Result<(), Error> {
        match verb {
            Verb::Publish => self.publish(store).await,
            Verb::Edit => {
                self.rename();
                self.edit(store).await
            }
            Verb::Archive => store.archive(|_, _| {}).await.map(drop),
            Verb::Rewrite => store.rewrite().await.map(drop),
            Verb::Sweep => store.sweep().await.map(drop),
        }
    }

    /// Checks, once all is healed, that what was acknowledged is there at once, the rest after another attempt, and
    /// that nothing is left of the disturbance.
    async fn make_up(&mut self, verb: Verb, outcome: &Result<(), Error>, case: &str) {
        let next = self.calm.clone();
        match verb {
            Verb::Publish => {
                if outcome.is_ok() {
                    self.check_grown(&next, self.grown, self.grown + BATCH, case).await;
                }
                self.publish(&next).await.unwrap();
                self.grown += BATCH;
                return self.check(case).await;
            }
            Verb::Edit => {
                if outcome.is_ok() {
                    self.check(case).await;
                }
                self.edit(&next).await.unwrap();
                return self.check(case).await;
            }
            Verb::Archive | Verb::Rewrite | Verb::Sweep => {}
        }
        self.check(case).await;
        self.world.recover(&next).await;
        self.check(case).await;
        assert_eq!(self.world.hot_count().await, 0, "{case}");
        self.world.audit_leftovers().await;
    }

    /// Checks the last changes: every event comes once, in order, as it was published or edited.
    async fn check(&self, case: &str) {
        self.check_grown(&self.calm, self.grown.saturating_sub(BATCH), self.grown, case).await;
        self.check_edited(&self.calm, case).await;
    }

    async fn check_grown(&self, reader: &Store, start: usize, end: usize, case: &str) {
        let query = Query { from: start as i64 + 1, ..everything() };
        let found = reader.read(&self.growing, &query).await.unwrap().events;
        assert_eq!(found, in_order(start..end), "{case}");
    }

    async fn check_edited(&self, reader: &Store, case: &str) {
        let mut edited = in_order(0..BATCH);
        edited[EDITED].payload = Json::parse_object(&payload(EDITED, &self.name)).unwrap();
        assert_eq!(read_all(reader, &self.edited).await, edited, "{case}");
    }

    /// Checks everything, from outside and by a process that has nothing in memory.
    async fn finish(mut self) {
        self.world.recover(&self.calm).await;
        let fresh = self.world.store(settings(BATCH as u64));
        self.check_grown(&fresh, 0, self.grown, "at the end").await;
        self.check_edited(&fresh, "at the end").await;
        for version in self.world.bucket.versions().await {
            let text = unzip(&version);
            let is_old = |name: &String| text.contains(&payload(EDITED, name));
            assert!(!text.contains(r#""topic":"payments""#) || !self.names.iter().any(is_old), "{text}");
        }
        self.world.audit().await;
    }
}
