use sqlx::PgConnection;

use crate::database::Error;
use crate::database::events::from_row;
use crate::event::Event;

macro_rules! select_snapshots {
    ($rest:literal) => {
        concat!(
            "SELECT position, raised_at, deployment_id, id, stream, type, reason, correlation_id, causation_id, ",
            "user_id, payload, gdpr FROM snapshots ",
            $rest
        )
    };
}

/// The snapshot bears the position of the last event that it stands for. False if there is one of this id already.
pub async fn insert_snapshot(connection: &mut PgConnection, topic_id: i64, snapshot: &Event) -> Result<bool, Error> {
    let inserted = sqlx::query(
        "INSERT INTO snapshots (topic_id, position, raised_at, deployment_id, id, stream, type, reason, correlation_id,
                                causation_id, user_id, payload, gdpr)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT ON CONSTRAINT snapshots_pkey DO NOTHING",
    )
    .bind(topic_id)
    .bind(snapshot.position)
    .bind(snapshot.raised_at.unix_nanos())
    .bind(snapshot.metadata.deployment_id)
    .bind(&snapshot.id)
    .bind(&snapshot.stream)
    .bind(&snapshot.event_type)
    .bind(&snapshot.reason)
    .bind(&snapshot.metadata.correlation_id)
    .bind(&snapshot.metadata.causation_id)
    .bind(&snapshot.metadata.user_id)
    .bind(snapshot.payload.as_str())
    .bind(snapshot.gdpr_json())
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

pub async fn snapshot(connection: &mut PgConnection, topic_id: i64, id: &str) -> Result<Option<Event>, Error> {
    let row = sqlx::query(select_snapshots!("WHERE topic_id = $1 AND id = $2"))
        .bind(topic_id)
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(from_row).transpose()
}

/// The one of a stream that stands for most events, of those that a reader of this deployment may use.
pub async fn newest_snapshot(
    connection: &mut PgConnection,
    topic_id: i64,
    stream: &str,
    deployment_id: i64,
) -> Result<Option<Event>, Error> {
    let row = sqlx::query(select_snapshots!(
        "WHERE topic_id = $1 AND stream = $2 AND (deployment_id = 0 OR deployment_id <= $3)
         ORDER BY position DESC, id DESC LIMIT 1"
    ))
    .bind(topic_id)
    .bind(stream)
    .bind(deployment_id)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(from_row).transpose()
}
