//! One case: a world of its own, two replicas, and the model of what they should say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coldstream::event::Log;
use coldstream::store::{Error, RequiredGroups, Settings, Store, SubscribingSettings};

use super::consumer::{Consumer, GROUP};
use super::expected::ExpectedLog;
use super::held::{self, Held};
use super::operations::{Job, Operation, Outage, REPLICAS, SLOTS, Step};
use crate::support::{Fate, World, settings};

const BATCH_SIZE: u64 = 4;
/// The longest time of an operation that does not wait for a held one.
const PATIENCE: Duration = Duration::from_secs(60);
/// The index of the log whose events are deleted once they are consumed.
pub const CONSUMED: usize = 3;
const LOGS: [(&str, &str); 4] = [("", "orders"), ("acme", "orders"), ("acme", "carts"), ("acme", "consumed")];

pub struct Case {
    pub world: World,
    pub replicas: Vec<Arc<Store>>,
    pub logs: Vec<ExpectedLog>,
    /// The number of events made so far; each event has a number.
    pub made: usize,
    pub step: usize,
    /// The log that was changed last.
    pub changed: usize,
    pub began_at: Instant,
    pub outage: Option<Outage>,
    held: [Option<Held>; SLOTS],
    consumer: Option<Consumer>,
}

fn replica_settings() -> Settings {
    let mut settings = settings(BATCH_SIZE);
    settings.eligibility.excluded_topics = [LOGS[CONSUMED].1.to_owned()].into();
    let normal = BTreeMap::from([(LOGS[CONSUMED].1.to_owned(), vec![GROUP.to_owned()])]);
    let required_groups = RequiredGroups { normal, ..RequiredGroups::default() };
    Settings { subscribing: SubscribingSettings { required_groups, ..settings.subscribing }, ..settings }
}

impl Case {
    pub async fn new() -> Case {
        let world = World::new().await;
        let replicas = (0..REPLICAS).map(|_| world.store(replica_settings())).collect();
        let logs = LOGS.map(|(tenant, topic)| ExpectedLog::new(Log::new(tenant, topic).expect("the names are fine")));
        let (held, consumer, began_at) = ([const { None }; SLOTS], None, Instant::now());
        Case {
            world,
            replicas,
            logs: logs.into(),
            made: 0,
            step: 0,
            changed: 0,
            began_at,
            outage: None,
            held,
            consumer,
        }
    }

    pub async fn take(&mut self, step: &Step) {
        self.step += 1;
        tokio::time::timeout(PATIENCE, self.carry_out(step)).await.unwrap_or_else(|_| panic!("stuck in {step:?}"));
        for (number, probe) in step.probes.iter().enumerate() {
            let log = if number == 0 { self.changed } else { (step.log + number) % LOGS.len() };
            let replica = (step.log + number) % REPLICAS;
            self.compare(replica, log).await;
            self.ask(replica, log, probe).await;
        }
    }

    async fn carry_out(&mut self, step: &Step) {
        let store = Arc::clone(&self.replicas[step.replica]);
        match &step.operation {
            Operation::Run(job) => self.run(&store, *job).await,
            Operation::RunWith(job, request, fault) if self.outage.is_none() => {
                held::meet(&self.world.proxy, *request, *fault);
                // The job may fail, since it may need what was lost.
                let _ = held::run(&store, *job).await;
                self.world.proxy.heal();
            }
            Operation::Start(slot, job, stop) if self.outage.is_none() && self.held[*slot].is_none() => {
                self.held[*slot] = Held::start(store, *job, &self.world.proxy, *stop).await;
                self.world.proxy.heal();
            }
            Operation::Advance(slot, stop) if self.outage.is_none() => {
                if let Some(held) = self.held[*slot].take() {
                    self.held[*slot] = held.advance(&self.world.proxy, *stop).await;
                    self.world.proxy.heal();
                }
            }
            Operation::Finish(slot, is_lost) => {
                if let Some(held) = self.held[*slot].take() {
                    held.finish(*is_lost).await;
                }
            }
            Operation::Kill(slot) => {
                if let Some(held) = self.held[*slot].take() {
                    self.held[*slot] = held.kill().await;
                }
            }
            Operation::RunWith(..) | Operation::Start(..) | Operation::Advance(..) => {}
            Operation::ExpireLeases => self.world.expire_leases().await,
            Operation::Restart => self.restart(step.replica).await,
            Operation::Outage(outage) => self.begin_outage(*outage),
            Operation::Heal => self.heal(),
            Operation::Subscribe => {
                let consumer = Consumer::start(&store, step.replica, self.step, LOGS.len());
                self.consumer = Some(consumer);
            }
            Operation::Leave => self.consumer = None,
            Operation::Consume(answers) => {
                for answer in answers.iter().filter(|_| self.outage.is_none()) {
                    if let Some(consumer) = &mut self.consumer {
                        consumer.consume(&mut self.logs, *answer, self.step).await;
                    }
                }
                self.forget_consumed().await;
            }
            change => self.change(&store, change).await,
        }
    }

    async fn run(&mut self, store: &Arc<Store>, job: Job) {
        let outcome = held::run(store, job).await;
        let is_alone = self.held.iter().all(Option::is_none);
        assert!(outcome.is_ok() || self.outage.is_some() || !is_alone, "{job:?}: {outcome:?}");
    }

    /// Returns what a call gave. A call may fail while S3 is away, and then nothing has happened.
    pub fn given<T>(&self, outcome: Result<T, Error>) -> Option<T> {
        match outcome {
            Ok(given) => Some(given),
            Err(Error::Unavailable(_) | Error::Refused(_)) if self.outage.is_some() => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn begin_outage(&mut self, outage: Outage) {
        self.outage = Some(outage);
        self.world.proxy.script(move |_| match outage {
            Outage::Gone => Fate::LoseRequest,
            Outage::Locked => Fate::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        });
    }

    fn heal(&mut self) {
        self.outage = None;
        self.world.proxy.heal();
    }

    async fn restart(&mut self, replica: usize) {
        if self.consumer.as_ref().is_some_and(|consumer| consumer.replica == replica) {
            self.consumer = None;
        }
        let old = std::mem::replace(&mut self.replicas[replica], self.world.store(replica_settings()));
        old.close_subscriptions();
        old.subscriptions_closed().await;
    }

    /// Waits until consumed events are deleted: the group's progress is written down before the next event is sent, or
    /// soon.
    async fn forget_consumed(&mut self) {
        self.logs[CONSUMED].forget_consumed();
        let until_deleted = async {
            let expected = &self.logs[CONSUMED];
            while self.replicas[0].read(&expected.log, &crate::support::everything()).await.unwrap().events.len()
                > expected.events.len()
            {}
        };
        tokio::time::timeout(PATIENCE, until_deleted).await.expect("consumed events are not deleted");
    }

    /// Lets all held jobs go on, and compares everything in the end.
    pub async fn end(mut self) {
        self.heal();
        for slot in 0..SLOTS {
            if let Some(held) = self.held[slot].take() {
                held.finish(false).await;
            }
        }
        if let Some(mut consumer) = self.consumer.take() {
            while self.logs.iter().any(|log| log.due().is_some()) {
                consumer.consume(&mut self.logs, super::operations::Answer::Handled, self.step).await;
            }
            self.forget_consumed().await;
        }
        for replica in &self.replicas {
            replica.close_subscriptions();
            replica.subscriptions_closed().await;
        }
        // A new replica has nothing in memory of what is read now.
        self.replicas = vec![self.world.store(replica_settings())];
        self.world.recover(&self.replicas[0]).await;
        for log in 0..LOGS.len() {
            self.compare(0, log).await;
            self.compare_erroneous(log).await;
        }
        drop(self.replicas);
        self.world.audit().await;
    }
}
