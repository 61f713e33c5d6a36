//! Connections that are not for a transaction. Most are for single statements that are many and short: a pool asks a
//! connection whether it is alive when it gives it and when it takes it back, two round trips beside the one that counts.
//! Here a connection is as good as it was when it was last used, and whoever finds out otherwise has another way.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::database::{ACQUIRE_TIMEOUT, Error};

pub(super) struct Connections {
    options: PgConnectOptions,
    idle: Mutex<Vec<PgConnection>>,
    permits: Arc<Semaphore>,
}

/// One that is used by one caller at a time, and closed unless it is kept.
pub struct SingleConnection {
    connection: PgConnection,
    connections: Arc<Connections>,
    permit: OwnedSemaphorePermit,
}

/// One of the pool of background jobs, which is closed unless it is kept: an answer can be dropped in the middle.
pub struct JobConnection {
    connection: PoolConnection<Postgres>,
    is_kept: bool,
}

/// What holds for all statements of a connection. All of ours are short, whatever the planner thinks of tables that it
/// has no statistics of: compiling one takes a hundred times as long as carrying it out.
pub(super) async fn set_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("SET jit = off").execute(connection).await?;
    Ok(())
}

impl Connections {
    /// Makes no connection before it is needed.
    pub fn new(options: PgConnectOptions, connections_max: usize) -> Connections {
        Connections { options, idle: Mutex::default(), permits: Arc::new(Semaphore::new(connections_max)) }
    }

    pub async fn take(this: &Arc<Connections>) -> Result<SingleConnection, Error> {
        let taking = async {
            let permit = Arc::clone(&this.permits).acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let idle = this.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match idle {
                Some(connection) => connection,
                // Boxed, since it is rare and large.
                None => Box::pin(this.connect()).await?,
            };
            Ok(SingleConnection { connection, connections: Arc::clone(this), permit })
        };
        tokio::time::timeout(ACQUIRE_TIMEOUT, taking)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(Error::from)
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        set_up(&mut connection).await?;
        Ok(connection)
    }

    pub fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl SingleConnection {
    /// For the next caller. Not to be called after an error, or with a statement that was not followed to its end.
    pub fn keep(self) {
        let SingleConnection { connection, connections, permit } = self;
        connections.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        drop(permit);
    }
}

impl Deref for SingleConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for SingleConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl JobConnection {
    pub(super) fn new(connection: PoolConnection<Postgres>) -> JobConnection {
        JobConnection { connection, is_kept: false }
    }

    /// For the next caller. Not to be called before the last answer was followed to its end.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for JobConnection {
    fn drop(&mut self) {
        if !self.is_kept {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for JobConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for JobConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
