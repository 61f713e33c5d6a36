//! Which member holds an event id, and which members hold a stream or a GDPR id.
//!
//! A run is a sorted list of keyed hashes, cut into pages of one row each; an archive has a run for every 65,535 of
//! its events, so that making one takes bounded memory. A page may say "perhaps" (two ids can share a hash), never a
//! false "no": the reader compares what it finds.

use std::collections::{BTreeMap, HashSet};

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use siphasher::sip128::{Hasher128, SipHasher24};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::database::Error;

/// Events that one run is about, at most.
pub const RUN_EVENTS: usize = 65_535;
/// A page with its row's header stays below a quarter of a Postgres page, and so inside its row.
const PAGE_BYTES: usize = 1_700;
const KIND_EVENT: i16 = 1;
const KIND_STREAM: i16 = 2;
const KIND_GDPR: i16 = 3;

/// Without it, ids and streams cannot be guessed from their hashes.
#[derive(Debug, Clone, Copy)]
pub struct HashKey(u64, u64);

/// The first half finds the page and orders the entries: 63 bits, so that it is a positive bigint.
type Hash = (i64, u64);

impl HashKey {
    pub fn new(key: Uuid) -> HashKey {
        let (high, low) = key.as_u64_pair();
        HashKey(high, low)
    }

    fn hash(self, text: &str) -> Hash {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        std::hash::Hasher::write(&mut hasher, text.as_bytes());
        let hash = hasher.finish128();
        ((hash.h1 >> 1) as i64, hash.h2)
    }
}

/// A run in the making: hash and member of each event, of its stream and of its GDPR ids.
pub struct LookupRun {
    key: HashKey,
    events: Vec<(i64, u16)>,
    streams: Vec<(Hash, u16)>,
    gdpr_ids: Vec<(i64, u16)>,
}

/// Kind, first hash and entries.
type Page = (i16, i64, Vec<u8>);

impl LookupRun {
    pub fn new(key: HashKey) -> LookupRun {
        LookupRun { key, events: Vec::new(), streams: Vec::new(), gdpr_ids: Vec::new() }
    }

    pub fn add<'a>(&mut self, event_id: &str, stream: &str, gdpr_ids: impl Iterator<Item = &'a str>, member: u16) {
        self.events.push((self.key.hash(event_id).0, member));
        self.streams.push((self.key.hash(stream), member));
        self.gdpr_ids.extend(gdpr_ids.map(|id| (self.key.hash(id).0, member)));
    }

    pub fn is_full(&self) -> bool {
        self.events.len() >= RUN_EVENTS
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn pages(mut self) -> Vec<Page> {
        self.events.sort_unstable();
        self.streams.sort_unstable();
        self.gdpr_ids.sort_unstable();
        self.gdpr_ids.dedup();
        let mut pages = Vec::new();
        write_ids(&mut pages, KIND_EVENT, &self.events);
        write_ids(&mut pages, KIND_GDPR, &self.gdpr_ids);
        for same_hash in self.streams.chunk_by(|((hash, _), _), ((next, _), _)| hash == next) {
            let page = page_for(&mut pages, KIND_STREAM, same_hash[0].0.0);
            for stream in same_hash.chunk_by(|(hash, _), (next, _)| hash == next) {
                write_stream(page, stream);
            }
        }
        pages
    }
}

/// Each hash with its member.
fn write_ids(pages: &mut Vec<Page>, kind: i16, ids: &[(i64, u16)]) {
    for same_hash in ids.chunk_by(|(hash, _), (next, _)| hash == next) {
        let page = page_for(pages, kind, same_hash[0].0);
        for (hash, member) in same_hash {
            page.extend(hash.to_be_bytes());
            page.extend(member.to_be_bytes());
        }
    }
}

/// The page that the entries of the next hash go into. They are never parted: a page is found by its first hash.
fn page_for(pages: &mut Vec<Page>, kind: i16, hash: i64) -> &mut Vec<u8> {
    let is_open = pages.last().is_some_and(|(open, _, page)| *open == kind && page.len() < PAGE_BYTES);
    if !is_open {
        pages.push((kind, hash, Vec::with_capacity(PAGE_BYTES + 64)));
    }
    &mut pages.last_mut().expect("there is one, or was pushed").2
}

/// The hash, its second half, how many members follow, and each member with its count of events.
fn write_stream(page: &mut Vec<u8>, stream: &[(Hash, u16)]) {
    let ((hash, rest), _) = stream[0];
    page.extend(hash.to_be_bytes());
    page.extend(rest.to_be_bytes());
    let members = || stream.chunk_by(|(_, member), (_, next)| member == next);
    page.extend((members().count() as u16).to_be_bytes());
    for same_member in members() {
        page.extend(same_member[0].1.to_be_bytes());
        page.extend((same_member.len() as u16).to_be_bytes());
    }
}

/// Takes numbers off the front of a page.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) =
            self.0.split_first_chunk().ok_or_else(|| Error::Damaged("a lookup page ends in an entry".into()))?;
        self.0 = rest;
        Ok(*head)
    }

    fn long(&mut self) -> Result<u64, Error> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn short(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.take()?))
    }
}

/// Members that one of these hashes leads to.
fn members_in_id_page(page: &[u8], hashes: &[i64]) -> Result<Vec<i32>, Error> {
    let (mut reader, mut found) = (Reader(page), Vec::new());
    while !reader.0.is_empty() {
        let (entry, member) = (reader.long()?, reader.short()?);
        if hashes.contains(&(entry as i64)) {
            found.push(i32::from(member));
        }
    }
    Ok(found)
}

/// Members with their counts.
fn members_in_stream_page(page: &[u8], (hash, rest): Hash) -> Result<Vec<(i32, i64)>, Error> {
    let (mut reader, mut found) = (Reader(page), Vec::new());
    while !reader.0.is_empty() {
        let (entry, entry_rest, length) = (reader.long()?, reader.long()?, reader.short()?);
        for _ in 0..length {
            let (member, count) = (reader.short()?, reader.short()?);
            if (entry, entry_rest) == (hash as u64, rest) {
                found.push((i32::from(member), i64::from(count)));
            }
        }
    }
    Ok(found)
}

/// The key of this deployment.
pub async fn hash_key(connection: &mut PgConnection) -> Result<HashKey, Error> {
    let key: Uuid = sqlx::query_scalar("SELECT hash_key FROM deployment").fetch_one(connection).await?;
    Ok(HashKey::new(key))
}

pub async fn insert_run(
    connection: &mut PgConnection,
    (topic_id, archive_id): (i64, Uuid),
    run: i32,
    lookups: LookupRun,
) -> Result<(), Error> {
    let pages = lookups.pages();
    let (mut kinds, mut first_hashes, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, first_hash, page) in pages {
        kinds.push(kind);
        first_hashes.push(first_hash);
        entries.push(page);
    }
    sqlx::query(
        "INSERT INTO lookup_pages (topic_id, archive_id, run, kind, first_hash, entries)
         SELECT $1, $2, $3, page.* FROM unnest($4::smallint[], $5::bigint[], $6::bytea[]) AS page",
    )
    .bind(topic_id)
    .bind(archive_id)
    .bind(run)
    .bind(kinds)
    .bind(first_hashes)
    .bind(entries)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the pages of a run are those that its events make. Those of GDPR ids may lead to more: fields that were
/// invalidated since have their entries still.
pub async fn is_run_stored(
    connection: &mut PgConnection,
    (topic_id, archive_id): (i64, Uuid),
    run: i32,
    lookups: LookupRun,
) -> Result<bool, Error> {
    let gdpr_ids = lookups.gdpr_ids.clone();
    let mut made = lookups.pages();
    made.retain(|(kind, ..)| *kind != KIND_GDPR);
    made.sort_unstable();
    let mut stored: Vec<Page> = sqlx::query_as(
        "SELECT kind, first_hash, entries FROM lookup_pages
         WHERE topic_id = $1 AND archive_id = $2 AND run = $3
         ORDER BY kind, first_hash",
    )
    .bind(topic_id)
    .bind(archive_id)
    .bind(run)
    .fetch_all(connection)
    .await?;
    let of_gdpr_ids: Vec<Page> = stored.extract_if(.., |(kind, ..)| *kind == KIND_GDPR).collect();
    Ok(stored == made && gdpr_ids.into_iter().all(|entry| is_led_to(&of_gdpr_ids, entry)))
}

/// Whether the page that would be found for the hash leads to the member. What cannot be read leads nowhere.
fn is_led_to(pages: &[Page], (hash, member): (i64, u16)) -> bool {
    let behind = pages.partition_point(|(_, first_hash, _)| *first_hash <= hash);
    let page = behind.checked_sub(1).map(|index| &pages[index].2);
    let found = page.and_then(|page| members_in_id_page(page, &[hash]).ok());
    found.is_some_and(|members| members.contains(&i32::from(member)))
}

pub async fn delete_lookups(connection: &mut PgConnection, (topic_id, archive_id): (i64, Uuid)) -> Result<(), Error> {
    sqlx::query("DELETE FROM lookup_pages WHERE topic_id = $1 AND archive_id = $2")
        .bind(topic_id)
        .bind(archive_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Members that perhaps hold one of these event ids.
pub async fn members_with_ids(
    connection: &mut PgConnection,
    topic_id: i64,
    key: HashKey,
    ids: &[String],
) -> Result<Vec<(Uuid, i32)>, Error> {
    members_with(connection, topic_id, KIND_EVENT, ids.iter().map(|id| key.hash(id).0).collect()).await
}

/// Members that perhaps hold a field with this GDPR id that showed its value when it was archived.
pub async fn members_with_gdpr_id(
    connection: &mut PgConnection,
    topic_id: i64,
    key: HashKey,
    gdpr_id: &str,
) -> Result<Vec<(Uuid, i32)>, Error> {
    members_with(connection, topic_id, KIND_GDPR, vec![key.hash(gdpr_id).0]).await
}

async fn members_with(
    connection: &mut PgConnection,
    topic_id: i64,
    kind: i16,
    hashes: Vec<i64>,
) -> Result<Vec<(Uuid, i32)>, Error> {
    let mut found = Vec::new();
    let mut pages = pages_of(connection, topic_id, kind, hashes);
    while let Some((archive_id, hashes, page)) = pages.try_next().await? {
        found.extend(members_in_id_page(&page, &hashes)?.into_iter().map(|member| (archive_id, member)));
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Members that hold events of a stream, and how many each.
pub async fn members_with_stream(
    connection: &mut PgConnection,
    topic_id: i64,
    key: HashKey,
    stream: &str,
) -> Result<BTreeMap<(Uuid, i32), i64>, Error> {
    let hash = key.hash(stream);
    let mut found = BTreeMap::new();
    let mut pages = pages_of(connection, topic_id, KIND_STREAM, vec![hash.0]);
    while let Some((archive_id, _, page)) = pages.try_next().await? {
        for (member, count) in members_in_stream_page(&page, hash)? {
            *found.entry((archive_id, member)).or_default() += count;
        }
    }
    Ok(found)
}

/// Its archive, the hashes that it could hold, and its entries.
type FoundPage = (Uuid, Vec<i64>, Vec<u8>);

/// The pages of each run of each archive that could hold one of these hashes, each page once, with those hashes.
fn pages_of(
    connection: &mut PgConnection,
    topic_id: i64,
    kind: i16,
    hashes: Vec<i64>,
) -> BoxStream<'_, Result<FoundPage, Error>> {
    sqlx::query(
        "WITH found AS (
             SELECT archives.id AS archive_id, runs.run, page.first_hash, array_agg(wanted.hash) AS hashes
             FROM archives
             CROSS JOIN LATERAL generate_series(0, archives.lookup_runs - 1) AS runs (run)
             CROSS JOIN unnest($3::bigint[]) AS wanted (hash)
             CROSS JOIN LATERAL (
                 SELECT first_hash FROM lookup_pages
                 WHERE topic_id = $1 AND archive_id = archives.id AND kind = $2 AND run = runs.run
                   AND first_hash <= wanted.hash
                 ORDER BY first_hash DESC
                 LIMIT 1
             ) AS page
             WHERE archives.topic_id = $1
             GROUP BY archives.id, runs.run, page.first_hash
         )
         SELECT found.archive_id, found.hashes, lookup_pages.entries
         FROM found JOIN lookup_pages USING (archive_id, run, first_hash)
         WHERE lookup_pages.topic_id = $1 AND lookup_pages.kind = $2
         ORDER BY found.archive_id, found.run, found.first_hash",
    )
    .bind(topic_id)
    .bind(kind)
    .bind(hashes)
    .fetch(connection)
    .map(|row| {
        let row = row?;
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
    })
    .boxed()
}

/// A field became personal after it was archived: its GDPR id is in no lookup page.
pub async fn insert_introduced_gdpr_id(
    connection: &mut PgConnection,
    topic_id: i64,
    gdpr_id: &str,
    (archive_id, position): (Uuid, i64),
) -> Result<(), Error> {
    sqlx::query("INSERT INTO introduced_gdpr_ids (topic_id, gdpr_id, archive_id, position) VALUES ($1, $2, $3, $4)")
        .bind(topic_id)
        .bind(gdpr_id)
        .bind(archive_id)
        .bind(position)
        .execute(connection)
        .await?;
    Ok(())
}

/// An archive's events are elsewhere now, and their GDPR ids are known there.
pub async fn delete_introduced_gdpr_ids(
    connection: &mut PgConnection,
    (topic_id, archive_id): (i64, Uuid),
) -> Result<(), Error> {
    sqlx::query("DELETE FROM introduced_gdpr_ids WHERE topic_id = $1 AND archive_id = $2")
        .bind(topic_id)
        .bind(archive_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Those that were introduced on fields of an archive.
pub async fn introduced_gdpr_ids(
    connection: &mut PgConnection,
    (topic_id, archive_id): (i64, Uuid),
) -> Result<HashSet<String>, Error> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT gdpr_id FROM introduced_gdpr_ids WHERE topic_id = $1 AND archive_id = $2 ORDER BY gdpr_id",
    )
    .bind(topic_id)
    .bind(archive_id)
    .fetch_all(connection)
    .await?;
    Ok(ids.into_iter().collect())
}

/// The archive and position of the field that this GDPR id was introduced on.
pub async fn introduced_gdpr_id(
    connection: &mut PgConnection,
    topic_id: i64,
    gdpr_id: &str,
) -> Result<Option<(Uuid, i64)>, Error> {
    let row = sqlx::query("SELECT archive_id, position FROM introduced_gdpr_ids WHERE topic_id = $1 AND gdpr_id = $2")
        .bind(topic_id)
        .bind(gdpr_id)
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok((row.try_get("archive_id")?, row.try_get("position")?))).transpose()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    /// What a page lookup in Postgres does.
    fn found_page(pages: &[Page], kind: i16, hash: i64) -> Vec<u8> {
        let fitting = pages.iter().filter(|page| page.0 == kind && page.1 <= hash);
        fitting.max_by_key(|page| page.1).map(|page| page.2.clone()).unwrap_or_default()
    }

    proptest! {
        #[test]
        fn what_was_added_is_found(events in prop::collection::vec(("[a-f]{1,3}", 0u16..50), 1..2000), key: u128) {
            let key = HashKey::new(Uuid::from_u128(key));
            let mut run = LookupRun::new(key);
            let mut streams: HashMap<String, BTreeMap<i32, i64>> = HashMap::new();
            for (number, (stream, member)) in events.iter().enumerate() {
                run.add(&format!("id-{number}"), stream, [stream.as_str()].into_iter(), *member);
                *streams.entry(stream.clone()).or_default().entry(i32::from(*member)).or_default() += 1;
            }
            let pages = run.pages();
            for (number, (_, member)) in events.iter().enumerate() {
                let (hash, _) = key.hash(&format!("id-{number}"));
                let found = members_in_id_page(&found_page(&pages, KIND_EVENT, hash), &[hash]).unwrap();
                prop_assert_eq!(found, vec![i32::from(*member)]);
            }
            for (stream, members) in streams {
                let hash = key.hash(&stream);
                let found = members_in_id_page(&found_page(&pages, KIND_GDPR, hash.0), &[hash.0]).unwrap();
                prop_assert_eq!(found, members.keys().copied().collect::<Vec<_>>());
                let found = members_in_stream_page(&found_page(&pages, KIND_STREAM, hash.0), hash).unwrap();
                prop_assert_eq!(found, members.into_iter().collect::<Vec<_>>());
            }
            let (hash, rest) = key.hash("never added");
            let page = found_page(&pages, KIND_STREAM, hash);
            prop_assert!(members_in_stream_page(&page, (hash, rest)).unwrap().is_empty());
        }
    }
}
