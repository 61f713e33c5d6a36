//! Whether database and bucket belong together, and are of one age.
//!
//! A database that was restored to an earlier time does not know the archives that were written after it. Publishing
//! into it would give positions a second time, so that is found out before anything else is done. Nothing is changed
//! here.

use std::collections::HashMap;

use futures::stream::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::bucket::{self, Head, ListedArchive, object_key};
use crate::database::{self, KnownObject};
use crate::store::{Error, Store};

/// Objects that are asked about at once.
const HEADS_AT_ONCE: usize = 8;
/// An object that somebody is just writing, or taking away, is another one, or gone, at the second look.
const LOOKS: usize = 2;

/// What stands between a database and serving it over its bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreconciled {
    /// Keys of archives that the database does not know, or not as they are.
    pub archives: Vec<String>,
    /// Keys of what is no archive of ours.
    pub strangers: Vec<String>,
}

/// What an object is to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is expected.
    Known,
    /// Somebody set out to write it, or to delete it, and it is no archive now.
    Intended,
    /// No archive of ours says such things of itself.
    Stranger,
    /// Nothing is known of it.
    Unknown,
    /// It was rewritten after what the database knows.
    Newer,
    /// It was written by whom the database knows, and bears another ETag: it was copied, or is damaged.
    Moved,
    /// It was replaced by an older generation of itself.
    Older,
    /// It was written by another database that believes to be this one.
    Forked,
}

/// `known` is about the same archive, and was asked for after the head was.
pub(super) fn standing(archive_id: Uuid, head: &Head, known: &[KnownObject]) -> Standing {
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
        let (doubtful, mut strangers) = self.doubtful().await?;
        let mut archives = doubtful;
        for _ in 0..LOOKS {
            let mut unexplained = Vec::new();
            for (listed, standing) in self.standings_of(archives).await? {
                match standing {
                    Standing::Known | Standing::Intended => {}
                    Standing::Stranger => strangers.push(listed.key),
                    // It is damaged, and no sign of another time.
                    Standing::Older => tracing::warn!(object = listed.key, "an older generation of it was put back"),
                    Standing::Unknown | Standing::Newer | Standing::Moved | Standing::Forked => {
                        unexplained.push(listed);
                    }
                }
            }
            archives = unexplained;
        }
        Ok(Unreconciled { archives: archives.into_iter().map(|listed| listed.key).collect(), strangers })
    }

    /// What the catalog does not know under the ETag that it is listed with; and what cannot be an archive.
    pub(super) async fn doubtful(&self) -> Result<(Vec<ListedArchive>, Vec<String>), Error> {
        let bucket::Listed { mut archives, strangers } = self.bucket()?.list_archives().await?;
        let known = self.known_objects().await?;
        archives.retain(|listed| {
            let mut known = known.get(&listed.key).into_iter().flatten();
            !known.any(|known| known.etag.as_ref() == Some(&listed.etag))
        });
        Ok((archives, strangers))
    }

    /// What objects are to the database, those that are gone left out.
    pub(super) async fn standings_of(
        &self,
        archives: Vec<ListedArchive>,
    ) -> Result<Vec<(ListedArchive, Standing)>, Error> {
        if archives.is_empty() {
            return Ok(Vec::new());
        }
        let bucket = self.bucket()?;
        let heads = archives.into_iter().map(async |listed| match bucket.head_of(&listed.key).await {
            Err(bucket::Error::NotFound { .. }) => Ok(None),
            head => head.map(|head| Some((listed, head))),
        });
        let heads: Vec<_> = futures::stream::iter(heads).buffered(HEADS_AT_ONCE).try_collect().await?;
        // Afterwards: whoever writes an object has said so before.
        let known = self.known_objects().await?;
        let mut standings = Vec::new();
        for (listed, head) in heads.into_iter().flatten() {
            let known = known.get(&listed.key).map_or(&[][..], Vec::as_slice);
            let standing = match (standing(listed.archive_id, &head, known), known) {
                // An archive of another time, unless its intent is all there is to it.
                (Standing::Intended, [intent, ..])
                    if self.stands_in_for(&intent.log, listed.archive_id, &head.said).await?.is_some() =>
                {
                    Standing::Unknown
                }
                (standing, _) => standing,
            };
            standings.push((listed, standing));
        }
        Ok(standings)
    }

    /// By key.
    pub(super) async fn known_objects(&self) -> Result<HashMap<String, Vec<KnownObject>>, Error> {
        let mut snapshot = self.database.snapshot_for_job().await?;
        let mut by_key: HashMap<String, Vec<KnownObject>> = HashMap::new();
        for known in database::known_objects(&mut snapshot).await? {
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
