//! Fetching one member of an archive for a reader, as the reader's view knew it.
//!
//! If the object was replaced since, its ETag differs, and the read begins anew with a new view.

use std::sync::Arc;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::bucket::{self, Member, MemberAddress};
use crate::database;
use crate::database::catalog::members::MemberExtent;
use crate::event::Log;
use crate::store::{ATTEMPTS, Error, Store};

/// The reason why a read ended without an answer: it has to begin anew, or it failed.
pub enum Interrupted {
    /// The object of this archive is not the one that the view knew.
    Stale(Uuid, bucket::Error),
    Failed(Error),
}

impl From<database::Error> for Interrupted {
    fn from(error: database::Error) -> Interrupted {
        Interrupted::Failed(error.into())
    }
}

impl From<Error> for Interrupted {
    fn from(error: Error) -> Interrupted {
        Interrupted::Failed(error)
    }
}

impl Store {
    /// Begins a read anew for as long as its objects are not the ones that its view knew: until the catalog and the
    /// objects agree, or the attempts are used up and the error that names the object is returned.
    pub(in crate::store) async fn retry_while_stale<'a, T>(
        &'a self,
        log: &'a Log,
        read: impl Fn() -> BoxFuture<'a, Result<T, Interrupted>> + Send,
    ) -> Result<T, Error> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            match read().await {
                Ok(answer) => return Ok(answer),
                Err(Interrupted::Failed(error)) => return Err(error),
                Err(Interrupted::Stale(archive_id, error)) => {
                    if attempts.next().is_none() || !self.settle_stale(log, archive_id).await? {
                        let error = error.into();
                        self.note_unreadable(log, archive_id, &error).await;
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Fetches one member, as the view knew it.
    pub(in crate::store) async fn fetch(&self, log: &Log, member: &MemberExtent) -> Result<Arc<Member>, Interrupted> {
        let MemberExtent {
            archive_id,
            etag,
            object_bytes,
            member,
            byte_start,
            byte_end,
            json_bytes,
            first_position,
            last_position,
            count,
            matching: _,
        } = member.clone();
        let address = MemberAddress {
            archive_id,
            etag,
            object_bytes,
            member,
            byte_start,
            byte_end,
            json_bytes,
            first_position,
            last_position,
            count,
        };
        match self.bucket()?.member(log, &address).await {
            Ok(member) => Ok(member),
            Err(error @ (bucket::Error::Changed { .. } | bucket::Error::NotFound { .. })) => {
                Err(Interrupted::Stale(archive_id, error))
            }
            Err(error) => {
                let error = error.into();
                self.note_unreadable(log, archive_id, &error).await;
                Err(Interrupted::Failed(error))
            }
        }
    }
}
