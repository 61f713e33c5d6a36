//! Cleaning up after writers that died: settling their intents, and purging what their rewrites superseded.

use crate::database;
use crate::store::{Error, Store};

impl Store {
    /// Says how many intents were settled. What somebody is at work on is left alone; what fails does not keep the
    /// rest from its turn.
    pub async fn sweep(&self) -> Result<usize, Error> {
        let mut transaction = self.database.begin_job().await?;
        let topic_ids = database::topics_with_stale_intents(&mut transaction).await?;
        drop(transaction);
        let (mut settled, mut failure) = (0, None);
        for topic_id in topic_ids {
            match self.with_lease(topic_id, async |lease| self.settle_intents(lease).await).await {
                Ok(count) => settled += count.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(%error, topic_id, "what a writer left was not settled");
                    failure = Some(error);
                }
            }
        }
        failure = self.purge_leftovers().await?.or(failure);
        failure.map_or(Ok(settled), Err)
    }

    /// Whether there is something left to settle, rewrite or purge: for now it may be another writer's.
    pub async fn has_unfinished(&self) -> Result<bool, Error> {
        let mut snapshot = self.database.begin_job().await?;
        Ok(database::has_unfinished(&mut snapshot).await?)
    }

    /// The last failure, if there was one.
    async fn purge_leftovers(&self) -> Result<Option<Error>, Error> {
        let mut transaction = self.database.begin_job().await?;
        database::mark_hot_purged(&mut transaction).await?;
        let unpurged = database::unpurged_archives(&mut transaction).await?;
        let mut topics = Vec::new();
        for (topic_id, ..) in &unpurged {
            topics.push(database::topic_by_id(&mut transaction, *topic_id).await?);
        }
        database::commit(transaction).await?;
        let mut failure = None;
        for ((topic_id, archive_id, sequence_max), topic) in unpurged.into_iter().zip(topics) {
            if let Err(error) = self.purge(&topic, archive_id, sequence_max).await {
                tracing::warn!(%error, topic_id, %archive_id, "superseded versions were not purged");
                failure = Some(error);
            }
        }
        Ok(failure)
    }
}
