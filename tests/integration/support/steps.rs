//! Archivers, rewriters and restorers that stop after a step, as if they died or slept there.

use coldstream::database::catalog::leases::Lease;
use coldstream::store::{
    Batch, Error, Exported, Parted, Prepared, Replaced, Restore, Rewrite, Selection, Store, Verified,
};
use time::OffsetDateTime;
use uuid::Uuid;

/// The steps of an archiver, then those of a rewriter, then those of a restorer, each in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Claimed,
    Uploaded,
    ReadBack,
    Archived,
    RewriteBegun,
    RewriteUploaded,
    Replaced,
    Promoted,
    RestoreBegun,
    RestWritten,
    Restored,
}

/// An archiver, rewriter or restorer, with the state that its last step left.
pub enum Mover<'a> {
    Claimed(Batch<'a>),
    Uploaded(Exported<'a>),
    ReadBack(Verified<'a>),
    Archived(i64),
    RewriteBegun(Rewrite<'a>),
    RewriteUploaded(Prepared<'a>),
    Replaced(Replaced<'a>),
    Promoted,
    RestoreBegun(Restore<'a>),
    RestWritten(Box<Parted<'a>>),
    Restored(i64),
}

impl<'a> Mover<'a> {
    /// Claims a batch and archives it as far as the step `last`.
    pub async fn archiver(store: &'a Store, lease: Lease, last: Step) -> Mover<'a> {
        let batch = store.claim(lease).await.unwrap().expect("a batch is due");
        Mover::Claimed(batch).drive(last).await.unwrap()
    }

    /// Rewrites an archive as far as the step `last`.
    pub async fn rewriter(store: &'a Store, lease: Lease, archive_id: Uuid, last: Step) -> Mover<'a> {
        let rewrite = store.begin_rewrite(lease, archive_id).await.unwrap().expect("the archive has pending edits");
        Mover::RewriteBegun(rewrite).drive(last).await.unwrap()
    }

    /// Restores events of an archive as far as the step `last`.
    pub async fn restorer(
        store: &'a Store,
        lease: Lease,
        archive_id: Uuid,
        selection: &Selection,
        held_until: Option<OffsetDateTime>,
        last: Step,
    ) -> Mover<'a> {
        let begun = store.begin_restore(lease, archive_id, selection, held_until).await.unwrap();
        Mover::RestoreBegun(begun.expect("the archive has such events")).drive(last).await.unwrap()
    }

    /// Takes the steps up to and including `last`. Returns the error of the first step that fails.
    pub async fn drive(mut self, last: Step) -> Result<Mover<'a>, Error> {
        while self.step() != last {
            self = self.next().await?;
        }
        Ok(self)
    }

    /// Takes one step.
    pub async fn next(self) -> Result<Mover<'a>, Error> {
        Ok(match self {
            Mover::Claimed(batch) => Mover::Uploaded(batch.upload().await?),
            Mover::Uploaded(exported) => Mover::ReadBack(exported.read_back().await?),
            Mover::ReadBack(verified) => Mover::Archived(verified.commit().await?),
            Mover::RewriteBegun(rewrite) => Mover::RewriteUploaded(rewrite.upload().await?),
            Mover::RewriteUploaded(prepared) => Mover::Replaced(prepared.replace().await?),
            Mover::Replaced(replaced) => {
                replaced.promote().await?;
                Mover::Promoted
            }
            Mover::RestoreBegun(restore) => Mover::RestWritten(Box::new(restore.write_rest().await?)),
            Mover::RestWritten(parted) => Mover::Restored(parted.commit().await?),
            Mover::Archived(_) | Mover::Promoted | Mover::Restored(_) => panic!("no step follows {:?}", self.step()),
        })
    }

    /// Returns the number of events that were moved, which is 0 before the last step.
    pub fn moved(&self) -> i64 {
        match self {
            Mover::Archived(events) | Mover::Restored(events) => *events,
            _ => 0,
        }
    }

    fn step(&self) -> Step {
        match self {
            Mover::Claimed(_) => Step::Claimed,
            Mover::Uploaded(_) => Step::Uploaded,
            Mover::ReadBack(_) => Step::ReadBack,
            Mover::Archived(_) => Step::Archived,
            Mover::RewriteBegun(_) => Step::RewriteBegun,
            Mover::RewriteUploaded(_) => Step::RewriteUploaded,
            Mover::Replaced(_) => Step::Replaced,
            Mover::Promoted => Step::Promoted,
            Mover::RestoreBegun(_) => Step::RestoreBegun,
            Mover::RestWritten(_) => Step::RestWritten,
            Mover::Restored(_) => Step::Restored,
        }
    }
}
