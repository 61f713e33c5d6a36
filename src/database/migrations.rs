//! Brings the tables up to date, over a connection of its own, whose error comes at once if the database cannot be
//! reached.
//!
//! Tables that are up to date are neither written nor locked, so a server that is read-only for now can be used. A
//! migration takes as long as it takes, for example to build an index. The caller looks now and then whether Postgres
//! is still at work on it; Postgres itself ends what a client has left (see [`super::session`]).

use std::time::Duration;

use sqlx::migrate::Migrator;

use crate::database::connection::{Connection, Limit};
use crate::database::connections::connect;
use crate::database::errors::{is_full, is_starting, silence};
use crate::database::session::Session;
use crate::database::{Database, Error, server};

const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// The number of failed looks in a row after which nobody will answer.
const UNANSWERED_MAX: u32 = 30;
const PRECEDES_BASELINE: &str = "a build from before version 0.1.0 made the tables, and they cannot be brought up \
     to date: archive all that you want to keep with that build, then start with an empty database and run \
     `coldstream recover`, which brings back the archived events";

impl Database {
    /// Applies the migrations that the database does not have.
    pub async fn migrate(&self) -> Result<(), Error> {
        let migrator = sqlx::migrate!();
        let mut connection = self.connect_directly().await?;
        server::check(&mut connection).await?;
        let applied = applied(&mut connection).await?;
        if is_up_to_date(&applied, &migrator) {
            return Ok(());
        }
        if precedes_baseline(&applied, &migrator) {
            return Err(Error::Unusable(PRECEDES_BASELINE.to_owned()));
        }
        let process_id: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        tokio::select! {
            outcome = migrator.run(connection.raw()) => outcome.map_err(Error::Migrate),
            gone = self.until_gone(process_id) => gone,
        }
    }

    /// Makes a connection whose statements and transactions have no timeouts.
    async fn connect_directly(&self) -> Result<Connection, Error> {
        let session = Session { patience: None, is_pooled: false };
        let mut connection =
            connect(&self.direct, session, self.patience, |error| is_starting(error) || is_full(error)).await?;
        connection.set_limit(Limit::within(self.patience));
        Ok(connection)
    }

    /// Returns once Postgres has no such process any more, or has not answered for long.
    async fn until_gone(&self, process_id: i32) -> Result<(), Error> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        // The first tick comes at once.
        looks.tick().await;
        let mut unanswered = 0;
        loop {
            looks.tick().await;
            match self.has_process(process_id).await {
                Ok(true) => unanswered = 0,
                Ok(false) => return Err(silence(LOOK_INTERVAL).into()),
                Err(error) if unanswered == UNANSWERED_MAX => return Err(error),
                Err(_) => unanswered += 1,
            }
        }
    }

    async fn has_process(&self, process_id: i32) -> Result<bool, Error> {
        let mut connection = self.connect_directly().await?;
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)")
            .bind(process_id)
            .fetch_one(&mut connection)
            .await?)
    }
}

/// A migration that was applied to the database, as sqlx recorded it.
#[derive(sqlx::FromRow)]
struct Applied {
    version: i64,
    description: String,
    checksum: Vec<u8>,
    success: bool,
}

/// Returns the migrations that were applied, in their order; none if sqlx has recorded nothing.
async fn applied(connection: &mut Connection) -> Result<Vec<Applied>, Error> {
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !is_there {
        return Ok(Vec::new());
    }
    let statement = "SELECT version, description, checksum, success FROM _sqlx_migrations ORDER BY version";
    Ok(sqlx::query_as(statement).fetch_all(connection).await?)
}

/// Returns whether every migration was applied, and nothing else. If not, the attempt to apply them says what is wrong.
fn is_up_to_date(applied: &[Applied], migrator: &Migrator) -> bool {
    let known = migrator.iter().map(|migration| (migration.version, &*migration.checksum, true));
    applied.iter().map(|applied| (applied.version, &*applied.checksum, applied.success)).eq(known)
}

/// Returns whether the database has the migrations that the first release replaced by a baseline. The first one of
/// them has the version of the baseline's first one, and another description.
fn precedes_baseline(applied: &[Applied], migrator: &Migrator) -> bool {
    let firsts = applied.first().zip(migrator.iter().next());
    firsts.is_some_and(|(applied, baseline)| {
        applied.version == baseline.version && applied.description != baseline.description
    })
}
