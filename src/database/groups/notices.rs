//! Notices that replicas send each other through Postgres. A notice may be lost: every replica also looks now and then.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::timeout;
use uuid::Uuid;

use crate::database::connections::SILENCE_MAX;
use crate::database::errors::silence;
use crate::database::session::Session;
use crate::database::{Connection, Database, Error, connecting};

const CHANNEL: &str = "coldstream";

pub struct Listener(PgListener);

impl Database {
    /// Makes a listener, which hears every notice from now on.
    pub async fn listen(&self) -> Result<Listener, Error> {
        let session = Session { patience: Some(self.patience), is_pooled: false };
        let options = within(self.patience, connecting::settled(&self.direct)).await?;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.patience)
            .after_connect(move |connection, _| {
                let set_up = session.set_up(connection.server_version_num());
                Box::pin(async move { sqlx::raw_sql(set_up).execute(connection).await.map(drop) })
            })
            .connect_lazy_with(options);
        within(self.patience, async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(Listener(listener))
        })
        .await
    }
}

impl Listener {
    /// Returns the next notice, or `None` if the connection broke off: notices were missed then. A caller that waits
    /// has to [`check`] now and then, because a connection that a middle box has forgotten is as silent as one without
    /// notices.
    ///
    /// [`check`]: Listener::check
    pub async fn next(&mut self) -> Result<Option<String>, Error> {
        Ok(self.0.try_recv().await?.map(|heard| heard.payload().to_owned()))
    }

    /// Checks that notices can still arrive.
    pub async fn check(&mut self) -> Result<(), Error> {
        within(SILENCE_MAX, async { sqlx::raw_sql("SELECT 1").execute(&mut self.0).await.map(drop) }).await
    }
}

async fn within<T>(limit: Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    Ok(timeout(limit, answer).await.unwrap_or_else(|_| Err(silence(limit)))?)
}

/// Sends notices to every replica, this one included.
pub async fn notify(connection: &mut Connection, words: &[String]) -> Result<(), Error> {
    sqlx::query("SELECT pg_notify($1, word) FROM unnest($2::text[]) AS word")
        .bind(CHANNEL)
        .bind(words)
        .execute(connection)
        .await?;
    Ok(())
}

/// Sends notices to the other replicas. Returns false and sends nothing if there are none, because a notification would
/// make the transaction commit something. A replica that starts meanwhile looks at everything once it is there.
pub async fn notify_others(connection: &mut Connection, own_replica_id: Uuid, words: &[String]) -> Result<bool, Error> {
    let said = sqlx::query(
        "SELECT pg_notify($1, word) FROM unnest($2::text[]) AS word
         WHERE EXISTS (SELECT FROM replicas WHERE id <> $3 AND expires_at > clock_timestamp())",
    )
    .bind(CHANNEL)
    .bind(words)
    .bind(own_replica_id)
    .execute(connection)
    .await?;
    Ok(said.rows_affected() > 0)
}

/// Stores a broadcast for the other replicas and sends them `word`, if there are any.
pub async fn insert_broadcast(
    connection: &mut Connection,
    own_replica_id: Uuid,
    (id, events): (Uuid, &str),
    word: &str,
) -> Result<(), Error> {
    sqlx::query(
        "WITH laid_out AS (
             INSERT INTO broadcasts (id, events)
             SELECT $2, $3
             WHERE EXISTS (SELECT FROM replicas WHERE id <> $1 AND expires_at > clock_timestamp())
             RETURNING id
         )
         SELECT pg_notify($4, $5) FROM laid_out",
    )
    .bind(own_replica_id)
    .bind(id)
    .bind(events)
    .bind(CHANNEL)
    .bind(word)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn broadcast(connection: &mut Connection, id: Uuid) -> Result<Option<String>, Error> {
    Ok(sqlx::query_scalar("SELECT events FROM broadcasts WHERE id = $1").bind(id).fetch_optional(connection).await?)
}

/// Deletes the broadcasts that every replica has had the time to fetch.
pub async fn delete_old_broadcasts(connection: &mut Connection) -> Result<(), Error> {
    sqlx::query("DELETE FROM broadcasts WHERE sent_at < clock_timestamp() - interval '1 minute'")
        .execute(connection)
        .await?;
    Ok(())
}
