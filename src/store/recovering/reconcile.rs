//! Finds out whether database and bucket belong together, and are of one age.
//!
//! A database that was restored to an earlier time does not know the archives that were written after it. A publish
//! into it would give positions a second time, so this is found out before anything else is done. It changes nothing,
//! except that it notes troubles of single objects.

use std::collections::HashMap;

use futures::stream::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::bucket::{self, Head, ListedArchive, Strangers, object_folder, object_key};
use crate::database::ArchiveKey;
use crate::database::catalog::archives;
use crate::database::catalog::recovery::{self, KnownObject};
use crate::database::catalog::troubles::{self, TroubleKind};
use crate::database::log::rows::{self, LogRow};
use crate::store::{Error, Store};

/// The number of objects that S3 is asked about at once.
const HEADS_AT_ONCE: usize = 8;
/// The number of looks at an object. One that somebody is just writing, or deleting, is another one, or gone, at the
/// second look.
const LOOKS: usize = 2;

/// The reasons that keep a database from serving its bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreconciled {
    /// The keys of archives that the database does not know, or not as they are.
    pub archives: Vec<String>,
    /// The keys among them that show that the database is of another time than the bucket. The trouble of each other
    /// archive is that archive's own.
    pub of_another_time: Vec<String>,
    pub strangers: Strangers,
}

/// The objects that a list of the bucket shows otherwise than the catalog does.
pub struct Doubtful {
    pub archives: Vec<ListedArchive>,
    pub strangers: Strangers,
    /// The list shows some archives as the catalog knows them.
    pub is_any_known: bool,
}

/// The relation of an object to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The database expects the object as it is.
    Known,
    /// A writer set out to write the object, or to delete it, and it is no archive now.
    Intended,
    /// The object does not say that it is an archive of ours.
    Stranger,
    /// The database does not know the object.
    Unknown,
    /// The object was rewritten after the database's last knowledge of it.
    Newer,
    /// The object has the write-id that the database knows, and another ETag: it was copied, or is damaged.
    Moved,
    /// An older generation has replaced the object.
    Older,
    /// Another database that takes itself for this one has written the object.
    Forked,
    /// An object that does not say that it is an archive is in the place of one.
    Replaced,
    /// S3 refuses to describe the object.
    Refused,
}

/// Returns the standing of an object. `known` is about the same archive, and was read after `head` was.
pub fn standing(archive_id: Uuid, head: &Head, known: &[KnownObject]) -> Standing {
    if head.said.archive_id != Some(archive_id) {
        return Standing::Stranger;
    }
    let writer = known.iter().find(|known| Some(known.write_id) == head.said.write_id);
    let current = known.iter().find(|known| known.etag.is_some());
    match (writer, current) {
        (Some(KnownObject { etag: None, .. }), None) => Standing::Intended,
        (Some(KnownObject { etag: None, .. }), Some(_)) => Standing::Known,
        (Some(KnownObject { etag: Some(etag), .. }), _) if *etag == head.etag => Standing::Known,
        (Some(_), _) => Standing::Moved,
        (None, None) => Standing::Unknown,
        (None, Some(current)) => match head.said.generation.cmp(&Some(current.generation)) {
            std::cmp::Ordering::Less => Standing::Older,
            std::cmp::Ordering::Equal => Standing::Forked,
            std::cmp::Ordering::Greater => Standing::Newer,
        },
    }
}

impl Store {
    /// Compares the list of the bucket with the catalog and the intents. The service and its replicas may be at work
    /// meanwhile.
    pub async fn unreconciled(&self) -> Result<Unreconciled, Error> {
        let Doubtful { archives: mut doubted, mut strangers, is_any_known } = self.doubtful().await?;
        let mut unexplained = Vec::new();
        for _ in 0..LOOKS {
            unexplained.clear();
            for (listed, standing) in self.standings_of(doubted).await? {
                match standing {
                    Standing::Known | Standing::Intended => {}
                    Standing::Stranger => strangers.push(listed.key),
                    _ => unexplained.push((listed, standing)),
                }
            }
            doubted = unexplained.iter().map(|(listed, _)| listed.clone()).collect();
        }
        let mut unreconciled = Unreconciled { strangers, ..Unreconciled::default() };
        let log_rows = if unexplained.is_empty() { HashMap::new() } else { self.logs_by_folder().await? };
        for (listed, standing) in unexplained {
            let log_row = log_rows.get(&listed.folder);
            let says_so = match standing {
                Standing::Unknown | Standing::Newer | Standing::Forked => true,
                // In a copy of the bucket, no object has the ETag that the catalog knows.
                Standing::Moved => !is_any_known && self.is_as_long_as_known(log_row, &listed).await?,
                _ => false,
            };
            match says_so && !self.is_told(log_row, &listed).await? {
                true => unreconciled.of_another_time.push(listed.key.clone()),
                false => self.tell_of(log_row, &listed, standing).await,
            }
            if matches!(standing, Standing::Unknown | Standing::Newer | Standing::Moved | Standing::Forked) {
                unreconciled.archives.push(listed.key);
            }
        }
        Ok(unreconciled)
    }

    /// Returns whether a recovery has reported that it cannot take an object over.
    async fn is_told(&self, log_row: Option<&LogRow>, listed: &ListedArchive) -> Result<bool, Error> {
        let Some(log_row) = log_row else { return Ok(false) };
        let mut view = self.database.view_for_job().await?;
        Ok(troubles::has_any(&mut view, ArchiveKey::new(log_row.id, listed.archive_id), TroubleKind::Recover).await?)
    }

    /// Returns whether an object is as long as the catalog says, as a copy is.
    async fn is_as_long_as_known(&self, log_row: Option<&LogRow>, listed: &ListedArchive) -> Result<bool, Error> {
        let Some(log_row) = log_row else { return Ok(false) };
        let mut view = self.database.view_for_job().await?;
        let archive = archives::find(&mut view, log_row.id, listed.archive_id).await?;
        Ok(archive.is_some_and(|archive| archive.object_bytes == listed.bytes))
    }

    /// Reports what is wrong with one object, which holds nothing else up.
    async fn tell_of(&self, log_row: Option<&LogRow>, listed: &ListedArchive, standing: Standing) {
        let why = match standing {
            Standing::Refused => "S3 refuses to say what it is",
            Standing::Older => "an older generation of it was put back",
            Standing::Replaced => "it does not say that it is this archive",
            Standing::Moved => "it is not the one that the catalog knows",
            _ => "the database does not know it, and it could not be recovered",
        };
        tracing::error!(object = listed.key, why, "an object is not as it should be");
        let is_known = matches!(standing, Standing::Older | Standing::Replaced | Standing::Moved);
        if let Some(log_row) = log_row.filter(|_| is_known) {
            let key = ArchiveKey::new(log_row.id, listed.archive_id);
            self.note_trouble_because(&log_row.log, key, TroubleKind::Read, &format!("{}: {why}", listed.key)).await;
        }
    }

    /// Returns all logs, by the folders of their archives.
    pub(in crate::store) async fn logs_by_folder(&self) -> Result<HashMap<String, LogRow>, Error> {
        let mut view = self.database.view_for_job().await?;
        let log_rows = rows::all(&mut view).await?;
        Ok(log_rows.into_iter().map(|log_row| (object_folder(&log_row.log), log_row)).collect())
    }

    /// Returns the archives that the catalog does not know under the ETag in the list, and the objects that cannot be
    /// archives.
    pub(in crate::store) async fn doubtful(&self) -> Result<Doubtful, Error> {
        let bucket::Listed { mut archives, strangers } = self.bucket()?.list_archives().await?;
        let known = self.known_objects().await?;
        let listed = archives.len();
        archives.retain(|listed| {
            let mut known = known.get(&listed.key).into_iter().flatten();
            !known.any(|known| known.etag.as_ref() == Some(&listed.etag))
        });
        let is_any_known = archives.len() < listed;
        Ok(Doubtful { archives, strangers, is_any_known })
    }

    /// Returns the standings of objects, without those that are gone.
    pub(in crate::store) async fn standings_of(
        &self,
        archives: Vec<ListedArchive>,
    ) -> Result<Vec<(ListedArchive, Standing)>, Error> {
        if archives.is_empty() {
            return Ok(Vec::new());
        }
        let bucket = self.bucket()?;
        let heads = archives.into_iter().map(async |listed| match bucket.head_of(&listed.key).await {
            Err(bucket::Error::NotFound { .. }) => Ok(None),
            Err(bucket::Error::ObjectRefused { .. }) => Ok(Some((listed, None))),
            head => head.map(|head| Some((listed, Some(head)))),
        });
        let heads: Vec<_> = futures::stream::iter(heads).buffered(HEADS_AT_ONCE).try_collect().await?;
        // This is read after the heads, because a writer adds its intent before it writes the object.
        let known = self.known_objects().await?;
        let mut standings = Vec::new();
        for (listed, head) in heads.into_iter().flatten() {
            let known = known.get(&listed.key).map_or(&[][..], Vec::as_slice);
            let standing = match &head {
                Some(head) => self.standing_of(&listed, head, known).await?,
                None => Standing::Refused,
            };
            standings.push((listed, standing));
        }
        Ok(standings)
    }

    async fn standing_of(&self, listed: &ListedArchive, head: &Head, known: &[KnownObject]) -> Result<Standing, Error> {
        match (standing(listed.archive_id, head, known), known) {
            (Standing::Intended, [intent, ..]) => {
                match self.stands_in_for(&intent.log, listed.archive_id, &head.said).await {
                    // The archive is of another time, unless its intent is all there is to it.
                    Ok(Some(_)) => Ok(Standing::Unknown),
                    Ok(None) => Ok(Standing::Intended),
                    // The process that settles the intent finds the same, and keeps the object.
                    Err(error) if error.is_of_one_object() => Ok(Standing::Intended),
                    Err(error) => Err(error),
                }
            }
            (Standing::Stranger, known) if known.iter().any(|known| known.etag.is_some()) => Ok(Standing::Replaced),
            (standing, _) => Ok(standing),
        }
    }

    /// Returns the known objects, by key.
    pub(in crate::store) async fn known_objects(&self) -> Result<HashMap<String, Vec<KnownObject>>, Error> {
        let mut view = self.database.view_for_job().await?;
        let mut by_key: HashMap<String, Vec<KnownObject>> = HashMap::new();
        for known in recovery::known_objects(&mut view).await? {
            by_key.entry(object_key(&known.log, known.archive_id)).or_default().push(known);
        }
        Ok(by_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Said;
    use crate::event::Log;

    #[test]
    fn an_object_is_told_from_another_one_by_who_wrote_it() {
        let [archive_id, one, other] = [1, 2, 3].map(Uuid::from_u128);
        let known = |generation, write_id, etag: Option<&str>| KnownObject {
            log: Log::new("", "orders").unwrap(),
            archive_id,
            generation,
            write_id,
            etag: etag.map(str::to_owned),
        };
        let head = |generation, write_id| Head {
            etag: "\"e\"".into(),
            said: Said {
                archive_id: Some(archive_id),
                generation: Some(generation),
                write_id: Some(write_id),
                ..Said::default()
            },
        };
        let current = known(2, one, Some("\"e\""));
        let cases = [
            (head(1, one), vec![], Standing::Unknown),
            (head(1, one), vec![known(1, one, None)], Standing::Intended),
            (head(2, other), vec![known(1, one, None)], Standing::Unknown),
            (head(2, one), vec![current.clone()], Standing::Known),
            (head(2, one), vec![known(2, one, Some("\"f\""))], Standing::Moved),
            (head(1, other), vec![current.clone()], Standing::Older),
            (head(2, other), vec![current.clone()], Standing::Forked),
            (head(3, other), vec![current.clone()], Standing::Newer),
            (head(3, other), vec![current.clone(), known(3, other, None)], Standing::Known),
            (Head { said: Said::default(), ..head(2, one) }, vec![current], Standing::Stranger),
        ];
        for (head, known, expected) in cases {
            assert_eq!(standing(archive_id, &head, &known), expected, "{head:?} {known:?}");
        }
    }
}
