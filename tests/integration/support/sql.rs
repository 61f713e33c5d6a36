//! Looks into the database and changes of it that no verb of the store offers.

use uuid::Uuid;

use super::World;

impl World {
    /// Returns the positions of all hot events.
    pub async fn hot_positions(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT position FROM events ORDER BY position").fetch_all(&self.sql).await.unwrap()
    }

    /// Returns the number of hot events.
    pub async fn hot_count(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.sql).await.unwrap()
    }

    /// Makes the catalog expect an object that was put back under another ETag.
    pub async fn expect_etag(&self, archive_id: Uuid, etag: &str) {
        sqlx::query("UPDATE archives SET etag = $2 WHERE id = $1")
            .bind(archive_id)
            .bind(etag)
            .execute(&self.sql)
            .await
            .unwrap();
    }
}
