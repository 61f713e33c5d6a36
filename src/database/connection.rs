//! A connection on which nobody waits for ever. All SQL goes through one.
//!
//! Everything that is asked over it has a deadline: a statement, each row of an answer that is read as it comes, a
//! piece of a COPY, BEGIN and COMMIT. An answer that misses its deadline becomes the error [`silence`]. A silent
//! connection is asked nothing more: it is closed, and nobody waits for its farewell.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, TryStreamExt, unfold};
use sqlx::postgres::{PgCopyIn, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection as _, Describe, Either, Execute, Executor, PgConnection, Postgres, SqlSafeStr, SqlStr};
use tokio::time::{Instant, timeout_at};

use crate::database::errors::{ends_session, is_read_only, silence};

type Outcome<T> = Result<T, sqlx::Error>;

/// The time for which a caller waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// One deadline for everything that is asked meanwhile.
    Until(Instant),
    /// A time for each answer by itself.
    Each(Duration),
}

impl Limit {
    pub fn within(duration: Duration) -> Limit {
        Limit::Until(Instant::now() + duration)
    }

    fn end(self) -> Instant {
        match self {
            Limit::Until(end) => end,
            Limit::Each(duration) => Instant::now() + duration,
        }
    }
}

#[derive(Debug)]
pub struct Connection {
    raw: PgConnection,
    state: State,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    /// True from BEGIN until the transaction is known to be over.
    has_begun: bool,
    /// An answer is on its way, and perhaps its caller does not wait for it any more.
    is_busy: bool,
    /// True from the beginning of a COPY to its end.
    is_copying: bool,
    is_broken: bool,
    is_read_only: bool,
}

impl Connection {
    pub(super) fn new(raw: PgConnection, limit: Limit) -> Connection {
        let state =
            State { limit, has_begun: false, is_busy: false, is_copying: false, is_broken: false, is_read_only: false };
        Connection { raw, state }
    }

    pub(super) fn set_limit(&mut self, limit: Limit) {
        self.state.limit = limit;
    }

    /// Returns whether the connection cannot be used any more.
    pub(super) fn is_broken(&self) -> bool {
        self.state.is_broken || self.state.is_copying
    }

    /// Returns whether the connection leads to a server that takes no changes.
    pub(super) fn is_read_only(&self) -> bool {
        self.state.is_read_only
    }

    /// Marks the connection as useless to everybody who wants to change something.
    pub(super) fn found_read_only(&mut self) {
        (self.state.is_read_only, self.state.is_broken) = (true, true);
    }

    /// Returns whether the connection can go to another caller as it is.
    pub(super) fn is_settled(&self) -> bool {
        !(self.state.has_begun || self.state.is_busy || self.is_broken())
    }

    pub(super) fn server_version(&self) -> Option<u32> {
        self.raw.server_version_num()
    }

    /// Returns the bare connection, which has no limit, for the migrations of sqlx.
    pub(super) fn raw(&mut self) -> &mut PgConnection {
        &mut self.raw
    }

    pub(super) async fn ping(&mut self) -> Outcome<()> {
        self.state.bound(self.raw.ping()).await
    }

    /// Runs statements that return nothing, in one round trip.
    pub(super) async fn run(&mut self, statements: impl SqlSafeStr) -> Outcome<()> {
        sqlx::raw_sql(statements).execute(self).await.map(drop)
    }

    pub(super) async fn begin(&mut self, statements: SqlStr) -> Outcome<()> {
        self.state.has_begun = true;
        self.run(statements).await
    }

    pub(super) async fn commit(&mut self) -> Outcome<()> {
        self.run("COMMIT").await?;
        self.state.has_begun = false;
        Ok(())
    }

    /// Ends a transaction or an answer that was left in the middle.
    pub(super) async fn settle(&mut self) -> Outcome<()> {
        // Both wait for an answer that is on its way first.
        match self.state.has_begun {
            true => self.run("ROLLBACK").await?,
            false => self.ping().await?,
        }
        self.state.has_begun = false;
        Ok(())
    }

    /// Returns the bytes of `COPY … TO STDOUT`. A caller that leaves the stream in the middle leaves a connection that
    /// cannot be used any more.
    pub(super) async fn copy_out<'c>(&'c mut self, statement: &str) -> Outcome<BoxStream<'c, Outcome<Bytes>>> {
        let Connection { raw, state } = self;
        state.is_copying = true;
        let messages = state.bound(raw.copy_out_raw(statement)).await?;
        Ok(state.bound_each(messages))
    }

    /// Sends bytes to `COPY … FROM STDIN`. A caller that leaves the COPY in the middle leaves a connection that cannot
    /// be used any more.
    pub(super) async fn copy_in<'c>(&'c mut self, statement: &str) -> Outcome<CopyIn<'c>> {
        let Connection { raw, state } = self;
        state.is_copying = true;
        let copy = state.bound(raw.copy_in_raw(statement)).await?;
        Ok(CopyIn { copy, state })
    }
}

impl State {
    /// Waits for an answer up to the limit, and remembers what the connection is good for after it.
    async fn bound<T>(&mut self, answer: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let started = Instant::now();
        self.is_busy = true;
        let outcome = match timeout_at(self.limit.end(), answer).await {
            Ok(outcome) => outcome,
            Err(_) => Err(silence(started.elapsed())),
        };
        self.is_busy = false;
        if let Err(error) = &outcome {
            self.is_broken |= ends_session(error);
            self.is_read_only |= is_read_only(error);
        }
        outcome
    }

    /// Waits for each answer of a stream up to the limit. A reader that stops in the middle leaves answers on their
    /// way.
    fn bound_each<'e, T: Send + 'e>(&'e mut self, answers: BoxStream<'e, Outcome<T>>) -> BoxStream<'e, Outcome<T>> {
        let rest = unfold(Some((self, answers)), |rest| async move {
            let (state, mut answers) = rest?;
            match state.bound(answers.try_next()).await {
                Ok(Some(answer)) => {
                    state.is_busy = true;
                    Some((Ok(answer), Some((state, answers))))
                }
                Ok(None) => {
                    state.is_copying = false;
                    None
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        rest.boxed()
    }
}

/// Rows on their way into a table.
pub(super) struct CopyIn<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    state: &'c mut State,
}

impl CopyIn<'_> {
    pub async fn send(&mut self, bytes: Vec<u8>) -> Outcome<()> {
        self.state.bound(self.copy.send(bytes)).await.map(drop)
    }

    pub async fn finish(self) -> Outcome<()> {
        let CopyIn { copy, state } = self;
        let outcome = state.bound(copy.finish()).await.map(drop);
        // A COPY that Postgres refused has come to its end.
        state.is_copying = !matches!(outcome, Ok(()) | Err(sqlx::Error::Database(_)));
        outcome
    }
}

/// Implements the methods of an executor whose whole answer has to be there in time.
macro_rules! answered_whole {
    ($($method:ident -> $answer:ty;)*) => { $(
        fn $method<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Outcome<$answer>>
        where
            'c: 'e,
            E: 'q + Execute<'q, Postgres>,
        {
            let Connection { raw, state } = self;
            Box::pin(state.bound(raw.$method(query)))
        }
    )* };
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    answered_whole! {
        execute -> PgQueryResult;
        fetch_all -> Vec<PgRow>;
        fetch_optional -> Option<PgRow>;
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Outcome<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Connection { raw, state } = self;
        state.bound_each(raw.fetch_many(query))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Outcome<Describe<Postgres>>>
    where
        'c: 'e,
    {
        let Connection { raw, state } = self;
        Box::pin(state.bound(raw.describe(sql)))
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Outcome<PgStatement>>
    where
        'c: 'e,
    {
        let Connection { raw, state } = self;
        Box::pin(state.bound(raw.prepare_with(sql, parameters)))
    }
}
