//! The tasks of a replica: it renews its lease, listens, takes progress and releases it. If the process dies, its lease
//! expires, and others take its progress.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::database::groups::{notices, progress, replicas};
use crate::database::{self, Transaction};
use crate::event::Group;
use crate::store::subscribe::notices::Word;
use crate::store::subscribe::replica::{Errands, Replica};
use crate::store::subscribe::wake::Cause;
use crate::store::{Error, Store};

/// The time after which a silent replica is dead. Its work moves to another replica in less than 5 s.
const LEASE_TERM: Duration = Duration::from_secs(3);
const BEAT_INTERVAL: Duration = Duration::from_millis(800);
/// The interval of the looks that make up for lost notices.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// The longest pause between attempts, which are made less and less often while they fail.
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// The time for one attempt to renew the lease. Two attempts fit into a lease: one over a connection that has fallen
/// silent, another over the next connection.
const BEAT_PATIENCE: Duration = Duration::from_millis(1_500);
const LAST_ACKS_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a replica, from its first subscriber to its last one.
pub async fn run(replica: Arc<Replica>) {
    let lives = async {
        tokio::join!(replica.beats(), replica.listens());
    };
    let left = async {
        replica.ending.cancelled().await;
        replica.couriers.close();
        // Couriers still write down what was acked.
        let _ = tokio::time::timeout(LAST_ACKS_TIMEOUT, replica.couriers.wait()).await;
    };
    let ends = async {
        tokio::select! {
            () = lives => {}
            () = left => {}
            // Without a lease the replica may write nothing.
            () = replica.lease.lost.cancelled() => {}
        }
    };
    // An errand is done to its end. Errands that couriers leave after the last one are done by `bury`.
    tokio::join!(ends, replica.does_errands());
    replica.lease.lost.cancel();
    replica.close_subscribers();
    if let Err(error) = replica.store.bury(replica.id, &replica.errands()).await {
        tracing::debug!(%error, "the replica's lease was not released and will expire");
    }
}

impl Replica {
    /// Renews the lease, and returns when it is lost.
    async fn beats(&self) {
        let mut is_registered = false;
        let mut lease_end: Option<Instant> = None;
        let mut pause = RETRY_INTERVAL;
        loop {
            let started = Instant::now();
            let deadline = lease_end.unwrap_or(started + LEASE_TERM);
            let beat = tokio::time::timeout_at(deadline, self.store.beat(self, is_registered)).await;
            match beat {
                Ok(Ok(true)) => {
                    lease_end = Some(started + LEASE_TERM);
                    *self.lease.ends_at.lock() = lease_end;
                    if !std::mem::replace(&mut is_registered, true) {
                        self.errand.notify_one();
                    }
                    tokio::time::sleep_until(started + BEAT_INTERVAL).await;
                }
                Ok(Ok(false)) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the replica's lease was not renewed");
                    tokio::time::sleep(pause).await;
                    // Without a lease there is no hurry.
                    pause = if is_registered { RETRY_INTERVAL } else { longer(pause) };
                }
                Err(_) if lease_end.is_some() => {}
                Err(_) => tracing::warn!("the database does not answer: no events are delivered"),
            }
            if lease_end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
        }
        tracing::warn!("the replica's lease was lost: subscribers have to connect again");
        self.lease.lost.cancel();
    }

    async fn listens(self: &Arc<Self>) {
        let mut pause = RETRY_INTERVAL;
        loop {
            let started = Instant::now();
            if let Err(error) = self.listen().await {
                tracing::warn!(%error, "notices of other replicas cannot be received");
            }
            pause = if started.elapsed() > LOOK_INTERVAL { RETRY_INTERVAL } else { pause };
            tokio::time::sleep(pause).await;
            pause = longer(pause);
        }
    }

    /// Listens until the connection breaks off.
    async fn listen(self: &Arc<Self>) -> Result<(), Error> {
        let mut listener = self.store.database.listen().await?;
        loop {
            // Notices may have been missed before it listened, or while the connection was away.
            self.catch_up().await?;
            listener.check().await?;
            let look_at = Instant::now() + LOOK_INTERVAL;
            loop {
                let heard = tokio::time::timeout_at(look_at, listener.next()).await;
                match heard {
                    Ok(Ok(Some(word))) => self.heard(&word).await,
                    Ok(Ok(None)) | Err(_) => break,
                    Ok(Err(error)) => return Err(error.into()),
                }
            }
        }
    }

    /// Looks at everything once, for the whole replica.
    async fn catch_up(self: &Arc<Self>) -> Result<(), Error> {
        let mut transaction = self.store.database.begin_groups().await?;
        notices::delete_old_broadcasts(&mut transaction).await?;
        database::commit(transaction).await?;
        self.look_everywhere(true);
        Ok(())
    }

    async fn heard(self: &Arc<Self>, text: &str) {
        match Word::parse(text) {
            Some(Word::Published(log_ids)) => {
                log_ids.iter().for_each(|log_id| self.wake(*log_id, None, Cause::Published));
            }
            Some(Word::Resent(log_id)) => self.wake(log_id, None, Cause::Resent),
            Some(Word::Released) => self.look_everywhere(false),
            Some(Word::Broadcast { process_id, id }) if process_id != self.store.subscriptions.process_id => {
                let replica = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = replica.pass_on(id).await {
                        tracing::warn!(%error, "a broadcast of another replica is lost");
                    }
                });
            }
            Some(Word::Broadcast { .. }) => {}
            None => tracing::warn!(text, "a notice of another replica is not understood"),
        }
    }

    async fn pass_on(&self, id: Uuid) -> Result<(), Error> {
        for (log, event) in self.store.fetch_broadcast(id).await? {
            self.broadcast(&log, &Arc::new(event));
        }
        Ok(())
    }

    /// Does errands until the replica ends.
    async fn does_errands(self: &Arc<Self>) {
        let mut look_again: BTreeSet<Instant> = BTreeSet::new();
        loop {
            let again = async {
                match look_again.first() {
                    Some(at) => tokio::time::sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.ending.cancelled() => return,
                () = self.lease.lost.cancelled() => return,
                () = self.errand.notified() => {}
                () = again => {
                    look_again.pop_first();
                    self.look_everywhere(false);
                }
            }
            // Nothing can be taken before there is a lease; the first beat signals an errand.
            if !self.lease.is_live() {
                continue;
            }
            let errands = self.errands();
            let waits: Vec<Duration> = errands.hand_overs.iter().map(|(_, _, wait)| *wait).collect();
            let done = self.do_errands(errands).await;
            // The waits begin when the progress was handed over, and not before.
            look_again.extend(waits.into_iter().map(|wait| Instant::now() + wait));
            if let Err((error, left)) = done {
                tracing::warn!(%error, "progress was not taken or released, and will be tried again");
                self.put_back(left);
                tokio::time::sleep(RETRY_INTERVAL).await;
                self.errand.notify_one();
            }
        }
    }

    async fn do_errands(self: &Arc<Self>, mut errands: Errands) -> Result<(), (Error, Errands)> {
        if let Err(error) = self.store.give_up(&errands).await {
            return Err((error, errands));
        }
        errands.releases.clear();
        errands.hand_overs.clear();
        if std::mem::take(&mut errands.looks_at_own) {
            match self.store.pending(self.id).await {
                Ok(pending) => self.adopt(pending),
                Err(error) => return Err((error, Errands { looks_at_own: true, ..errands })),
            }
        }
        if !errands.looks_everywhere && errands.look_at.is_empty() {
            return Ok(());
        }
        let log_ids: Option<Vec<i64>> = (!errands.looks_everywhere).then(|| errands.look_at.iter().copied().collect());
        let wanted = self.wanted();
        match self.store.take(self.id, &wanted, log_ids.as_deref()).await {
            Ok((taken, elsewhere)) => {
                self.adopt(taken);
                self.remember_elsewhere(elsewhere);
                Ok(())
            }
            Err(error) => Err((error, errands)),
        }
    }
}

impl Store {
    /// Renews the lease, or begins it. Returns false if it is lost.
    async fn beat(&self, replica: &Replica, is_registered: bool) -> Result<bool, Error> {
        let names = replica.group_names();
        let mut transaction = self.database.begin_beat(BEAT_PATIENCE).await?;
        let is_held = match is_registered {
            true => replicas::renew(&mut transaction, replica.id, &names, LEASE_TERM).await?,
            false => {
                replicas::insert(&mut transaction, replica.id, &names, LEASE_TERM).await?;
                true
            }
        };
        let dead = replicas::delete_dead(&mut transaction).await?;
        if dead > 0 {
            notices::notify(&mut transaction, &[Word::Released.to_string()]).await?;
        }
        database::commit(transaction).await?;
        Ok(is_held)
    }

    /// Takes progress, and returns it with what others own in the logs that `log_ids` names.
    async fn take(
        &self,
        replica_id: Uuid,
        wanted: &[progress::Wanted],
        log_ids: Option<&[i64]>,
    ) -> Result<(Vec<progress::Taken>, Vec<(Group, i64)>), Error> {
        if wanted.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let mut transaction = self.database.begin_groups().await?;
        let taken = progress::take(&mut transaction, replica_id, wanted, log_ids).await?;
        let elsewhere = match log_ids {
            Some(log_ids) => progress::owned_by_others(&mut transaction, replica_id, log_ids).await?,
            None => Vec::new(),
        };
        database::commit(transaction).await?;
        Ok((taken, elsewhere))
    }

    async fn pending(&self, replica_id: Uuid) -> Result<Vec<progress::Taken>, Error> {
        let mut transaction = self.database.begin_groups().await?;
        Ok(progress::pending(&mut transaction, replica_id).await?)
    }

    async fn give_up(&self, errands: &Errands) -> Result<(), Error> {
        if errands.releases.is_empty() && errands.hand_overs.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.begin_groups().await?;
        release(&mut transaction, errands).await?;
        notices::notify(&mut transaction, &[Word::Released.to_string()]).await?;
        Ok(database::commit(transaction).await?)
    }

    /// Ends a replica, and lets others take everything that it owns.
    async fn bury(&self, replica_id: Uuid, errands: &Errands) -> Result<(), Error> {
        let mut transaction = self.database.begin_groups().await?;
        release(&mut transaction, errands).await?;
        progress::release_all(&mut transaction, replica_id).await?;
        replicas::delete(&mut transaction, replica_id).await?;
        notices::notify(&mut transaction, &[Word::Released.to_string()]).await?;
        Ok(database::commit(transaction).await?)
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(RETRY_INTERVAL_MAX)
}

async fn release(transaction: &mut Transaction, errands: &Errands) -> Result<(), Error> {
    progress::release(transaction, &errands.releases).await?;
    for (turn, refusal, wait) in &errands.hand_overs {
        progress::hand_over(transaction, turn, *refusal, *wait).await?;
    }
    Ok(())
}
