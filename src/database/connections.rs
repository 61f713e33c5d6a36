//! A connection pool: it keeps connections for the next caller.
//!
//! A caller that takes a connection mostly begins a transaction, and so finds out whether the connection still lives. A
//! connection that was idle has a second to answer, and is replaced otherwise, because a middle box that has forgotten
//! a connection says nothing. The pool lends the connection first that was used last. So if a middle box has forgotten
//! the idle connections, one caller loses its second, and not all of them.
//!
//! A connection comes back when it is dropped. One with a transaction or an answer in the middle is settled first, in a
//! task of its own. One that is broken is closed, and its place is free at once.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use parking_lot::{Mutex, MutexGuard};
use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use crate::database::connection::{Connection, Limit};
use crate::database::errors::{ends_session, is_full, is_starting, said, silence};
use crate::database::session::Session;
use crate::database::{Error, connecting};

/// The time after which an idle connection that does not answer is dead.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(1);
/// The time for which a connection is trusted after its last use: it still lives, or its user has another way.
const TRUSTED: Duration = Duration::from_secs(1);
/// The age at which a connection is closed, because its server's address may have changed by then.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// The shortest time between two occasions on which the pools give up all connections.
const RETIRE_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two looks for a connection of a server that gives no more.
const PLACE_PAUSE: Duration = Duration::from_millis(10);
const TELL_INTERVAL: Duration = Duration::from_secs(60);
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(10);
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The part of the patience in which the pool retries a server that does not come up. The rest is for telling why.
const CONNECT_PAUSES: f64 = 0.8;

/// The knowledge that all pools of a server share.
#[derive(Default)]
pub(super) struct Pools {
    /// The time since which connections are of use: a server that was found to be read-only may be the old primary.
    since: Mutex<Option<Instant>>,
    all: Mutex<Vec<Weak<Connections>>>,
    /// Pools that have no connection, while the server has none left.
    starving: AtomicUsize,
    told_at: Mutex<Option<Instant>>,
}

impl Pools {
    fn begin_anew(&self) {
        let mut since = self.since.lock();
        if since.is_none_or(|since| since.elapsed() >= RETIRE_INTERVAL) {
            *since = Some(Instant::now());
        }
    }

    fn includes(&self, instant: Instant) -> bool {
        self.since.lock().is_none_or(|since| instant >= since)
    }

    /// Closes an idle connection of a pool that has others.
    fn make_room(&self) {
        let pools: Vec<Arc<Connections>> = self.all.lock().iter().filter_map(Weak::upgrade).collect();
        drop(pools.iter().filter(|pool| pool.open_count() > 1).find_map(|pool| pool.pop()));
    }

    fn tell_full(&self, error: &sqlx::Error) {
        let mut told_at = self.told_at.lock();
        if told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            *told_at = Some(Instant::now());
            tracing::warn!(
                error = said(error),
                "Postgres gives no more connections: callers share those that there are"
            );
        }
    }
}

/// A pool that has no connection, for as long as it waits for one: the others give theirs up.
struct Starving<'a>(&'a Pools);

impl<'a> Starving<'a> {
    fn new(pools: &'a Pools) -> Starving<'a> {
        pools.starving.fetch_add(1, Ordering::AcqRel);
        Starving(pools)
    }
}

impl Drop for Starving<'_> {
    fn drop(&mut self) {
        self.0.starving.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) struct Connections {
    options: PgConnectOptions,
    session: Session,
    /// The time within which a caller has a place and a connection.
    patience: Duration,
    pools: Arc<Pools>,
    idle: Mutex<Vec<Kept>>,
    permits: Arc<Semaphore>,
    /// Held by each connection that is open.
    places: Arc<()>,
}

struct Kept {
    connection: Connection,
    place: Arc<()>,
    connected_at: Instant,
    idle_since: Instant,
}

/// The first thing that is asked over a connection; the answer shows that it lives.
#[derive(Clone, Copy)]
pub(super) enum Opening {
    Begin(&'static str),
    Ping,
    /// No question, if the connection was used a moment ago.
    Trust,
}

/// A connection that is lent to one caller.
pub struct PooledConnection {
    connection: Option<Connection>,
    place: Arc<()>,
    connected_at: Instant,
    connections: Arc<Connections>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Connections {
    /// Makes a pool, which connects only once a connection is needed.
    pub fn new(
        options: PgConnectOptions,
        session: Session,
        (count_max, patience): (u32, Duration),
        pools: &Arc<Pools>,
    ) -> Arc<Connections> {
        let permits = Arc::new(Semaphore::new(count_max as usize));
        let (pools, places) = (Arc::clone(pools), Arc::new(()));
        let connections = Connections { options, session, patience, pools, idle: Mutex::default(), permits, places };
        let connections = Arc::new(connections);
        connections.pools.all.lock().push(Arc::downgrade(&connections));
        connections
    }

    pub async fn take(self: &Arc<Self>, opening: Opening, limit: Limit) -> Result<PooledConnection, Error> {
        let taking = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            self.open(Some(permit), opening).await
        };
        let mut taken = timeout(self.patience, taking).await.unwrap_or_else(|_| Err(silence(self.patience)))?;
        taken.set_limit(limit);
        Ok(taken)
    }

    async fn open(
        self: &Arc<Self>,
        mut permit: Option<OwnedSemaphorePermit>,
        opening: Opening,
    ) -> Result<PooledConnection, sqlx::Error> {
        if let Some(kept) = self.pop() {
            let idle_for = kept.idle_since.elapsed();
            let mut pooled = self.lend(kept, permit);
            pooled.set_limit(Limit::within(SILENCE_MAX));
            match pooled.begin_with(opening, idle_for).await {
                Err(error) if pooled.is_broken() => {
                    tracing::debug!(%error, "a connection that was idle is replaced");
                    permit = pooled.give_up();
                }
                outcome => return outcome.map(|()| pooled),
            }
        }
        // Boxed, because the futures are rare and large.
        let kept = match Box::pin(self.connect()).await {
            Err(error) if is_full(&error) => Box::pin(self.wait_for_place(error)).await?,
            outcome => outcome?,
        };
        let mut pooled = self.lend(kept, permit);
        pooled.begin_with(opening, Duration::ZERO).await?;
        Ok(pooled)
    }

    async fn connect(&self) -> Result<Kept, sqlx::Error> {
        let connection = connect(&self.options, self.session, self.patience, is_starting).await?;
        let now = Instant::now();
        Ok(Kept { connection, place: Arc::clone(&self.places), connected_at: now, idle_since: now })
    }

    /// Waits for a connection of this pool, because the server gives no more. If the pool has none, another pool gives one
    /// up, so that nobody is kept out by others for ever.
    async fn wait_for_place(&self, full: sqlx::Error) -> Result<Kept, sqlx::Error> {
        self.pools.tell_full(&full);
        let has_none = self.open_count() == 0;
        let _starving = has_none.then(|| Starving::new(&self.pools));
        let (deadline, mut last) = (Instant::now() + self.patience.mul_f64(CONNECT_PAUSES), full);
        while Instant::now() < deadline {
            tokio::time::sleep(PLACE_PAUSE).await;
            if let Some(kept) = self.pop() {
                return Ok(kept);
            }
            if has_none {
                self.pools.make_room();
            }
            match self.connect().await {
                Err(error) if is_full(&error) => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    fn lend(self: &Arc<Self>, kept: Kept, permit: Option<OwnedSemaphorePermit>) -> PooledConnection {
        let Kept { connection, place, connected_at, .. } = kept;
        PooledConnection { connection: Some(connection), place, connected_at, connections: Arc::clone(self), permit }
    }

    /// The number of connections that are open.
    fn open_count(&self) -> usize {
        Arc::strong_count(&self.places) - 1
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.idle.lock()
    }

    /// Takes the idle connection that was used last.
    fn pop(&self) -> Option<Kept> {
        let mut idle = self.idle();
        idle.retain(|kept| {
            let is_young = kept.connected_at.elapsed() < AGE_MAX && kept.idle_since.elapsed() < IDLE_MAX;
            is_young && self.pools.includes(kept.connected_at)
        });
        idle.pop()
    }

    fn put(&self, connection: Connection, place: Arc<()>, connected_at: Instant) {
        let may_leave = self.open_count() > 1 && self.pools.starving.load(Ordering::Acquire) > 0;
        if !self.permits.is_closed() && !may_leave {
            self.idle().push(Kept { connection, place, connected_at, idle_since: Instant::now() });
        }
    }

    pub fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }
}

impl PooledConnection {
    async fn begin_with(&mut self, opening: Opening, idle_for: Duration) -> Result<(), sqlx::Error> {
        match opening {
            Opening::Begin(statement) => {
                let statements = self.connections.session.begin(statement, self.server_version());
                self.begin(statements).await
            }
            Opening::Trust if idle_for < TRUSTED => Ok(()),
            Opening::Ping | Opening::Trust => self.ping().await,
        }
    }

    /// Closes the connection, and returns its place for another one.
    fn give_up(mut self) -> Option<OwnedSemaphorePermit> {
        self.connection = None;
        self.permit.take()
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let (connections, connected_at) = (Arc::clone(&self.connections), self.connected_at);
        let place = Arc::clone(&self.place);
        if connection.is_read_only() {
            connections.pools.begin_anew();
        }
        if connection.is_settled() {
            return connections.put(connection, place, connected_at);
        }
        let permit = self.permit.take();
        if let (false, Ok(runtime)) = (connection.is_broken(), Handle::try_current()) {
            runtime.spawn(async move {
                connection.set_limit(Limit::within(connections.patience));
                if connection.settle().await.is_ok() {
                    connections.put(connection, place, connected_at);
                }
                drop(permit);
            });
        }
    }
}

impl Deref for PooledConnection {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until this is dropped")
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is there until this is dropped")
    }
}

/// Makes a new connection, and sets its session up. It retries while a server is coming up, and after a connection that
/// breaks off before its session is set up.
pub(super) async fn connect(
    options: &PgConnectOptions,
    session: Session,
    patience: Duration,
    is_passing: fn(&sqlx::Error) -> bool,
) -> Result<Connection, sqlx::Error> {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(CONNECT_PAUSE_MIN)
        .with_max_delay(CONNECT_PAUSE_MAX)
        .without_max_times()
        .with_total_delay(Some(patience.mul_f64(CONNECT_PAUSES)));
    let attempt = || async {
        let raw = connecting::connect(options).await.map_err(|error| (is_passing(&error), error))?;
        let mut connection = Connection::new(raw, Limit::within(patience));
        let set_up = session.set_up(connection.server_version());
        connection.run(set_up).await.map_err(|error| (ends_session(&error), error))?;
        Ok(connection)
    };
    let connecting = attempt.retry(pauses).when(|(is_passing, _): &(bool, sqlx::Error)| *is_passing);
    match timeout(patience, connecting).await {
        Ok(connected) => connected.map_err(|(_, error)| error),
        Err(_) => Err(silence(patience)),
    }
}
