//! A replica with subscribers: its lease, its listener for other replicas, and the progress that it owns. It begins
//! with the first subscriber and ends with the last one. Without a subscriber there is no query, no connection and no
//! task.
//!
//! If the process dies, its lease ends, and another replica takes over. If the replica could not renew its lease in
//! time, it ends its subscribers' streams, because others may be delivering.

pub mod tend;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::database::groups::progress::{Progress, Refusal, Taken, Turn, Wanted};
use crate::database::groups::replicas::GroupNames;
use crate::event::{Event, Group, Log};
use crate::store::Store;
use crate::store::subscribe::courier::{Ack, Courier, End};
use crate::store::subscribe::lease::ReplicaLease;
use crate::store::subscribe::subscriber::Subscriber;
use crate::store::subscribe::wake::{Cause, Wake};

/// The number of acks that may wait for a courier. Clients give up an ack that is not taken at once, and then hang, so
/// there is room for everything that may be in flight.
const INBOX_ACKS_MAX: usize = 4_096;

pub struct Replica {
    pub id: Uuid,
    pub store: Arc<Store>,
    state: Mutex<State>,
    /// Signals that there is something to take or to release.
    pub errand: Notify,
    /// Cancelled when the last subscriber is gone, or the process ends.
    pub ending: CancellationToken,
    pub lease: Arc<ReplicaLease>,
    pub couriers: TaskTracker,
}

#[derive(Default)]
struct State {
    groups: HashMap<Group, Members>,
    log_ids: HashMap<Log, i64>,
    errands: Errands,
}

/// The work that is to be done in Postgres.
#[derive(Default)]
pub struct Errands {
    pub looks_everywhere: bool,
    /// An owned progress may have been left without a courier.
    pub looks_at_own: bool,
    pub look_at: BTreeSet<i64>,
    pub releases: Vec<(Turn, Refusal)>,
    pub hand_overs: Vec<(Turn, Refusal, Duration)>,
}

/// The subscribers of a group, and the progress that the replica owns for it.
struct Members {
    subscribers: watch::Sender<Vec<Arc<Subscriber>>>,
    owned: HashMap<i64, Owned>,
    /// The logs whose progress another replica owned at the last look.
    elsewhere: HashSet<i64>,
}

struct Owned {
    turn: Turn,
    log: Log,
    progress: Progress,
    refusal: Refusal,
    wake: Arc<Wake>,
    /// `None` while everything is handled.
    inbox: Option<mpsc::Sender<Ack>>,
}

impl Members {
    fn new() -> Members {
        let subscribers = watch::Sender::new(Vec::new());
        Members { subscribers, owned: HashMap::new(), elsewhere: HashSet::new() }
    }

    fn covers(&self, log: &Log) -> bool {
        is_covered(&self.subscribers, log)
    }

    /// Returns whether the group has no subscribers here, and nothing is owned for it.
    fn is_over(&self) -> bool {
        self.owned.is_empty() && self.subscribers.borrow().is_empty()
    }
}

fn is_covered(subscribers: &watch::Sender<Vec<Arc<Subscriber>>>, log: &Log) -> bool {
    subscribers.borrow().iter().any(|subscriber| subscriber.covers(log))
}

impl Replica {
    pub fn new(store: Arc<Store>) -> Arc<Replica> {
        let id = Uuid::now_v7();
        Arc::new(Replica {
            id,
            store,
            state: Mutex::default(),
            errand: Notify::new(),
            ending: CancellationToken::new(),
            lease: Arc::new(ReplicaLease::new(id)),
            couriers: TaskTracker::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn join(&self, subscriber: Arc<Subscriber>) {
        let mut state = self.state();
        let members = state.groups.entry(subscriber.group.clone()).or_insert_with(Members::new);
        members.subscribers.send_modify(|subscribers| subscribers.push(subscriber));
        members.elsewhere.clear();
        state.errands.looks_everywhere = true;
        drop(state);
        self.errand.notify_one();
    }

    /// Removes a subscriber. Returns whether it was the last one.
    pub fn leave(&self, subscriber: &Subscriber) -> bool {
        let mut state = self.state();
        if let Some(members) = state.groups.get_mut(&subscriber.group) {
            members
                .subscribers
                .send_modify(|subscribers| subscribers.retain(|other| other.number != subscriber.number));
        }
        state.drop_uncovered();
        let is_last = state.groups.values().all(|members| members.subscribers.borrow().is_empty());
        drop(state);
        self.errand.notify_one();
        is_last
    }

    /// Ends every subscriber's stream.
    pub fn close_subscribers(&self) {
        let state = self.state();
        for members in state.groups.values() {
            members.subscribers.borrow().iter().for_each(|subscriber| subscriber.close());
        }
    }

    pub fn broadcast(&self, log: &Log, event: &Arc<Event>) {
        let state = self.state();
        for members in state.groups.values() {
            for subscriber in members.subscribers.borrow().iter() {
                if subscriber.covers(log) && subscriber.may_take(event.metadata.deployment_id) {
                    subscriber.broadcast(log, event);
                }
            }
        }
    }

    /// Returns the channel for acks of this log's events, or `None` if none of them is in flight.
    pub fn inbox(&self, group: &Group, log: &Log) -> Option<mpsc::Sender<Ack>> {
        let state = self.state();
        let log_id = state.log_ids.get(log)?;
        state.groups.get(group)?.owned.get(log_id)?.inbox.clone()
    }

    /// Wakes the courier of each group in this log, where there may be something to deliver. A notice from another
    /// replica names no tenant and topic, so `log` is `None` then.
    pub fn wake(self: &Arc<Self>, log_id: i64, log: Option<&Log>, cause: Cause) {
        let mut guard = self.state();
        let State { groups, errands, .. } = &mut *guard;
        let mut has_errand = false;
        for members in groups.values_mut() {
            if let Some(owned) = members.owned.get_mut(&log_id) {
                owned.wake.wake(cause);
                self.start(owned, &members.subscribers);
            } else if !members.elsewhere.contains(&log_id) && log.is_none_or(|log| members.covers(log)) {
                has_errand = true;
                errands.look_at.insert(log_id);
            }
        }
        drop(guard);
        if has_errand {
            self.errand.notify_one();
        }
    }

    /// Looks for progress everywhere, because others may have given up what they owned.
    pub fn look_everywhere(&self, at_own: bool) {
        let mut state = self.state();
        state.groups.values_mut().for_each(|members| members.elsewhere.clear());
        state.errands.looks_everywhere = true;
        state.errands.looks_at_own |= at_own;
        drop(state);
        self.errand.notify_one();
    }

    fn start(self: &Arc<Self>, owned: &mut Owned, subscribers: &watch::Sender<Vec<Arc<Subscriber>>>) {
        if owned.inbox.is_some() {
            return;
        }
        let (inbox, acks) = mpsc::channel(INBOX_ACKS_MAX);
        owned.inbox = Some(inbox);
        let mut courier = Courier::new(
            (Arc::clone(&self.store), Arc::clone(&self.lease)),
            (owned.turn.clone(), owned.log.clone()),
            (&owned.progress, std::mem::take(&mut owned.refusal)),
            (subscribers.subscribe(), acks, Arc::clone(&owned.wake)),
        );
        let replica = Arc::clone(self);
        self.couriers.spawn(async move {
            loop {
                let end = courier.run().await;
                if replica.rest(&courier.turn, end) {
                    return courier.count_last_acks().await;
                }
            }
        });
    }

    /// Begins to deliver the progress that was taken. Progress that nobody here wants any more is released again.
    pub fn adopt(self: &Arc<Self>, taken: Vec<Taken>) {
        let mut guard = self.state();
        let State { groups, log_ids, errands } = &mut *guard;
        for Taken { turn, log, progress, refusal, has_resends } in taken {
            // Progress that is about to be given up does not begin anew.
            let is_given_up = errands.releases.iter().any(|(other, _)| *other == turn)
                || errands.hand_overs.iter().any(|(other, ..)| *other == turn);
            if is_given_up {
                continue;
            }
            let members = groups.get_mut(&turn.group).filter(|members| members.covers(&log));
            let Some(members) = members else {
                errands.releases.push((turn, refusal));
                continue;
            };
            log_ids.insert(log.clone(), turn.log_id);
            members.elsewhere.remove(&turn.log_id);
            let fresh = || Owned { turn: turn.clone(), log, progress, refusal, wake: Arc::default(), inbox: None };
            let owned = members.owned.entry(turn.log_id).or_insert_with(fresh);
            owned.wake.wake(if has_resends { Cause::Any } else { Cause::Published });
            self.start(owned, &members.subscribers);
        }
    }

    /// Remembers what other replicas own, unless a notice has said since that it may have been given up.
    pub fn remember_elsewhere(&self, owned: Vec<(Group, i64)>) {
        let mut state = self.state();
        if state.errands.looks_everywhere {
            return;
        }
        for (group, log_id) in owned {
            if let Some(members) = state.groups.get_mut(&group) {
                members.elsewhere.insert(log_id);
            }
        }
    }

    /// Settles the end of a courier. Returns false if the courier has more to do.
    fn rest(&self, turn: &Turn, end: End) -> bool {
        let mut guard = self.state();
        let State { groups, errands, .. } = &mut *guard;
        let Some(members) = groups.get_mut(&turn.group) else { return true };
        match end {
            End::Idle(progress) => {
                let Some(owned) = members.owned.get_mut(&turn.log_id) else { return true };
                if owned.wake.is_woken() {
                    return false;
                }
                (owned.progress, owned.inbox) = (progress, None);
                if !is_covered(&members.subscribers, &owned.log) {
                    errands.releases.push((owned.turn.clone(), owned.refusal));
                    members.owned.remove(&turn.log_id);
                }
            }
            End::Deserted { refusal } => {
                members.owned.remove(&turn.log_id);
                errands.releases.push((turn.clone(), refusal));
                // A subscriber may have joined since the courier looked.
                errands.look_at.insert(turn.log_id);
            }
            End::HandedOver { refusal, wait } => {
                members.owned.remove(&turn.log_id);
                errands.hand_overs.push((turn.clone(), refusal, wait));
            }
            End::Lost => {
                members.owned.remove(&turn.log_id);
            }
        }
        if members.is_over() {
            groups.remove(&turn.group);
        }
        drop(guard);
        self.errand.notify_one();
        true
    }

    pub fn errands(&self) -> Errands {
        std::mem::take(&mut self.state().errands)
    }

    /// Puts back errands that failed, to be done the next time.
    pub fn put_back(&self, errands: Errands) {
        let Errands { looks_everywhere, looks_at_own, look_at, releases, hand_overs } = errands;
        let mut state = self.state();
        state.errands.looks_everywhere |= looks_everywhere;
        state.errands.looks_at_own |= looks_at_own;
        state.errands.look_at.extend(look_at);
        state.errands.releases.extend(releases);
        state.errands.hand_overs.extend(hand_overs);
    }

    /// Returns what the groups' subscribers want.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (group, members) in &self.state().groups {
            let mut topics: BTreeSet<Option<String>> =
                members.subscribers.borrow().iter().flat_map(|subscriber| subscriber.topics()).collect();
            // All topics include each topic.
            if topics.contains(&None) {
                topics.retain(Option::is_none);
            }
            wanted.extend(topics.into_iter().map(|topic| Wanted { group: group.clone(), topic }));
        }
        wanted
    }

    pub fn group_names(&self) -> GroupNames {
        let state = self.state();
        let members = state.groups.iter().filter(|(_, members)| !members.subscribers.borrow().is_empty());
        let (parallel, normal) = members.map(|(group, _)| group).partition::<Vec<&Group>, _>(|group| group.is_parallel);
        let names = |groups: Vec<&Group>| groups.into_iter().map(|group| group.name.clone()).collect();
        GroupNames { normal: names(normal), parallel: names(parallel) }
    }
}

impl State {
    /// Releases progress that is at rest and has no subscriber any more. Couriers at work notice it by themselves.
    fn drop_uncovered(&mut self) {
        let State { groups, errands, .. } = self;
        for members in groups.values_mut() {
            members.owned.retain(|_, owned| {
                let is_kept = owned.inbox.is_some() || is_covered(&members.subscribers, &owned.log);
                if !is_kept {
                    errands.releases.push((owned.turn.clone(), owned.refusal));
                }
                is_kept
            });
        }
        groups.retain(|_, members| !members.is_over());
    }
}
