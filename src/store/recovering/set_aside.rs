//! Sets aside an object that cannot be taken over. A start passes over an object that a recovery has reported, and
//! gives no other event a position that such an object says it holds, so that the object can still be taken over once
//! it is whole again.

use crate::bucket::{self, ListedArchive, ObjectMetadata, log_in_folder};
use crate::database::catalog::recovery;
use crate::database::catalog::troubles::{self, TroubleKind};
use crate::database::{self, ArchiveKey};
use crate::store::recovering::reconcile::Standing;
use crate::store::{Error, Store};

/// A position that no log reaches. An object that claims a higher one is not believed.
const POSITION_MAX: i64 = 1 << 53;

impl Store {
    pub(in crate::store) async fn forget_set_aside(&self) -> Result<(), Error> {
        let mut transaction = self.database.begin_job().await?;
        troubles::delete_of_recovery(&mut transaction).await?;
        Ok(database::commit(transaction).await?)
    }

    /// Sets an object aside. If its log cannot be found out, a start treats the object as before.
    pub(in crate::store) async fn set_aside(
        &self,
        listed: &ListedArchive,
        standing: Standing,
        why: &str,
    ) -> Result<(), Error> {
        let Some(log) = log_in_folder(&listed.folder) else { return Ok(()) };
        let said = match self.bucket()?.head_of(&listed.key).await {
            Ok(head) if head.said.archive_id == Some(listed.archive_id) => head.said.metadata().ok(),
            Ok(_) | Err(bucket::Error::NotFound { .. } | bucket::Error::ObjectRefused { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let log_row = self.log_row_of(&log).await?;
        if let Some(ObjectMetadata { last_position, .. }) = said.filter(|_| standing == Standing::Unknown)
            && last_position <= POSITION_MAX
        {
            let mut transaction = self.database.begin_job().await?;
            recovery::add_found(&mut transaction, log_row.id, last_position, 0).await?;
            database::commit(transaction).await?;
        }
        self.note_trouble_because(&log, ArchiveKey::new(log_row.id, listed.archive_id), TroubleKind::Recover, why)
            .await;
        Ok(())
    }
}
