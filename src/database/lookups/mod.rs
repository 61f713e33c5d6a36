//! Lookups: the members that hold an event id, a stream or a GDPR id.
//!
//! A run is a sorted list of keyed hashes, cut into pages of one row each. An archive has a run for every 65,535 of its
//! events, so that making a run takes bounded memory. As archives add up, their runs are merged ([`merges`]). A row of
//! `lookups` says which runs are kept together, which archives they are of, and what these archives hold in all
//! ([`sums`]). A page may say "perhaps", because two ids can share a hash, and never a false "no": the reader compares
//! what it finds.

pub mod merges;
mod pages;
pub mod sums;

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use siphasher::sip128::{Hasher128, SipHasher24};
use sqlx::Row;
use uuid::Uuid;

use crate::database::{ArchiveKey, Connection, Error};

use pages::{Entry, Hash, Kind, Page, PageWriter, combine, entries_of, head};

/// The most events that one run leads to.
pub const RUN_EVENTS: usize = 65_535;
/// The number of hashes that one statement looks for while a run is compared.
const HASHES_AT_ONCE: usize = 4_096;

/// The key of the hashes. Nobody can guess ids and streams from their hashes without the key.
#[derive(Debug, Clone, Copy)]
pub struct HashKey(u64, u64);

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

    /// Returns the part of an id's hash that lookups keep. Two ids can share it.
    pub fn fingerprint(self, id: &str) -> u64 {
        head(self.hash(id).0)
    }
}

/// A run that is being made: the hash and the member of each event, of its stream and of its GDPR ids.
pub struct LookupRun {
    key: HashKey,
    events: Vec<(Hash, u16)>,
    streams: Vec<(Hash, u16)>,
    gdpr_ids: Vec<(Hash, u16)>,
}

impl LookupRun {
    pub fn new(key: HashKey) -> LookupRun {
        LookupRun { key, events: Vec::new(), streams: Vec::new(), gdpr_ids: Vec::new() }
    }

    pub fn add<'a>(&mut self, event_id: &str, stream: &str, gdpr_ids: impl Iterator<Item = &'a str>, member: u16) {
        self.events.push((self.key.hash(event_id), member));
        self.streams.push((self.key.hash(stream), member));
        self.gdpr_ids.extend(gdpr_ids.map(|id| (self.key.hash(id), member)));
    }

    pub fn is_full(&self) -> bool {
        self.events.len() >= RUN_EVENTS
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn of(&self, kind: Kind) -> &[(Hash, u16)] {
        match kind {
            Kind::Event => &self.events,
            Kind::Stream => &self.streams,
            Kind::Gdpr => &self.gdpr_ids,
        }
    }

    fn pages(&self) -> Result<Vec<Page>, Error> {
        let stride = self.events.iter().map(|(_, member)| u32::from(*member) + 1).max().unwrap_or(1);
        let mut pages = Vec::new();
        for kind in Kind::ALL {
            let mut entries = entries_for(kind, self.of(kind));
            combine(kind, &mut entries);
            let mut writer = PageWriter::new(kind, stride);
            for group in entries.chunk_by(|one, next| one.head == next.head) {
                writer.push(group)?;
            }
            pages.extend(writer.finish());
        }
        Ok(pages)
    }
}

fn entries_for(kind: Kind, hashes: &[(Hash, u16)]) -> Vec<Entry> {
    hashes.iter().map(|(hash, member)| Entry::new(kind, *hash, 0, (*member).into(), 1)).collect()
}

/// Returns the hash key of this deployment.
pub async fn hash_key(connection: &mut Connection) -> Result<HashKey, Error> {
    let key: Uuid = sqlx::query_scalar("SELECT hash_key FROM deployment").fetch_one(connection).await?;
    Ok(HashKey::new(key))
}

/// Adds a run to an archive's own lookup.
pub async fn insert_run(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    run: i32,
    lookups: LookupRun,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO lookups (log_id, id, level, runs, archive_ids)
         VALUES ($1, $2, 0, $3, ARRAY[$2])
         ON CONFLICT ON CONSTRAINT lookups_pkey DO UPDATE SET runs = EXCLUDED.runs",
    )
    .bind(log_id)
    .bind(archive_id)
    .bind(run + 1)
    .execute(&mut *connection)
    .await?;
    insert_pages(connection, (log_id, archive_id), run, lookups.pages()?).await
}

async fn insert_pages(
    connection: &mut Connection,
    (log_id, lookup_id): (i64, Uuid),
    run: i32,
    pages: Vec<Page>,
) -> Result<(), Error> {
    let (mut kinds, mut first_hashes, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for Page { kind, first_hash, bytes } in pages {
        kinds.push(kind as i16);
        first_hashes.push(first_hash);
        entries.push(bytes);
    }
    sqlx::query(
        "INSERT INTO lookup_pages (log_id, lookup_id, run, kind, first_hash, entries)
         SELECT $1, $2, $3, page.* FROM unnest($4::smallint[], $5::bigint[], $6::bytea[]) AS page",
    )
    .bind(log_id)
    .bind(lookup_id)
    .bind(run)
    .bind(kinds)
    .bind(first_hashes)
    .bind(entries)
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes an archive's lookup. The archive's entries in a merge do not count any more; they go with the last archive
/// of that merge.
pub async fn delete(connection: &mut Connection, ArchiveKey { log_id, archive_id }: ArchiveKey) -> Result<(), Error> {
    delete_pages(connection, log_id, &[archive_id]).await?;
    let without: Vec<Uuid> = sqlx::query_scalar(
        "WITH left_by AS (
             UPDATE lookups
             SET archive_ids = array_replace(archive_ids, $2, NULL), first_position = NULL, last_position = NULL,
                 types = NULL, type_counts = NULL
             WHERE log_id = $1 AND $2 = ANY(archive_ids)
             RETURNING id, archive_ids
         )
         SELECT id FROM left_by WHERE array_remove(archive_ids, NULL) = '{}' ORDER BY id",
    )
    .bind(log_id)
    .bind(archive_id)
    .fetch_all(&mut *connection)
    .await?;
    delete_pages(connection, log_id, &without).await
}

async fn delete_pages(connection: &mut Connection, log_id: i64, lookup_ids: &[Uuid]) -> Result<(), Error> {
    for statement in [
        "DELETE FROM lookups WHERE log_id = $1 AND id = ANY($2)",
        "DELETE FROM lookup_pages WHERE log_id = $1 AND lookup_id = ANY($2)",
    ] {
        sqlx::query(statement).bind(log_id).bind(lookup_ids).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Whether the pages lead to every event of a run. The number of a stream's events in a member is compared with all
/// that the pages keep of that member, because a run that is passed to this function ends with a member. Pages may lead
/// to more GDPR ids, because fields that were invalidated since still have their entries.
pub async fn leads_to(
    connection: &mut Connection,
    ArchiveKey { log_id, archive_id }: ArchiveKey,
    run: &LookupRun,
) -> Result<bool, Error> {
    for kind in Kind::ALL {
        let mut hashes = run.of(kind).to_vec();
        hashes.sort_unstable();
        let by_head: Vec<&[(Hash, u16)]> = hashes.chunk_by(|(one, _), (next, _)| head(one.0) == head(next.0)).collect();
        for hashes in by_head.chunks(HASHES_AT_ONCE) {
            let hashes = hashes.concat();
            let mut made = entries_for(kind, &hashes);
            combine(kind, &mut made);
            let wanted: Vec<Hash> = hashes.into_iter().map(|(hash, _)| hash).collect();
            let found = match led_to(connection, (log_id, Among::Of(archive_id)), kind, &wanted).await {
                Err(Error::Damaged(_)) => return Ok(false),
                found => found?,
            };
            let found: HashMap<_, _> = found
                .into_iter()
                .filter(|(id, _)| *id == archive_id)
                .map(|(_, Entry { head, tail, member, count, .. })| ((head, tail, member), count))
                .collect();
            if !made.iter().all(|made| found.get(&(made.head, made.tail, made.member)) == Some(&made.count)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Returns the lookups of live archives, each with the archives that it leads to; a lookup that is known already comes
/// without them.
pub async fn live(
    connection: &mut Connection,
    log_id: i64,
    known_ids: &[Uuid],
) -> Result<Vec<(Uuid, Vec<Uuid>)>, Error> {
    Ok(sqlx::query_as(
        "SELECT id, CASE WHEN id = ANY($2) THEN '{}' ELSE array_remove(archive_ids, NULL) END
         FROM lookups
         WHERE log_id = $1
           AND (id = ANY($2)
                OR EXISTS (SELECT FROM archives WHERE archives.log_id = $1 AND archives.id = ANY(archive_ids)))
         ORDER BY id",
    )
    .bind(log_id)
    .bind(known_ids)
    .fetch_all(connection)
    .await?)
}

/// Passes the fingerprints of all events that a lookup leads to, a page at a time.
pub async fn fingerprints(
    connection: &mut Connection,
    log_id: i64,
    lookup_id: Uuid,
    mut each: impl FnMut(&[u64]),
) -> Result<(), Error> {
    let mut pages =
        sqlx::query_scalar("SELECT entries FROM lookup_pages WHERE log_id = $1 AND lookup_id = $2 AND kind = $3")
            .bind(log_id)
            .bind(lookup_id)
            .bind(Kind::Event as i16)
            .fetch(connection);
    while let Some(page) = pages.try_next().await? {
        let page: Vec<u8> = page;
        let fingerprints: Vec<u64> = entries_of(Kind::Event, &page)?.iter().map(|entry| entry.head).collect();
        each(&fingerprints);
    }
    Ok(())
}

/// Returns the members that perhaps hold one of these event ids. It does not look into the lookups of `except`.
pub async fn members_with_ids(
    connection: &mut Connection,
    log_id: i64,
    key: HashKey,
    ids: &[String],
    except: &[Uuid],
) -> Result<Vec<(Uuid, i32)>, Error> {
    let hashes = ids.iter().map(|id| key.hash(id)).collect();
    members_with(connection, (log_id, Among::AllBut(except)), Kind::Event, hashes).await
}

/// Returns the members that perhaps hold a field with this GDPR id, if the field showed its value when it was archived.
pub async fn members_with_gdpr_id(
    connection: &mut Connection,
    log_id: i64,
    key: HashKey,
    gdpr_id: &str,
) -> Result<Vec<(Uuid, i32)>, Error> {
    members_with(connection, (log_id, Among::AllBut(&[])), Kind::Gdpr, vec![key.hash(gdpr_id)]).await
}

async fn members_with(
    connection: &mut Connection,
    among: (i64, Among<'_>),
    kind: Kind,
    hashes: Vec<Hash>,
) -> Result<Vec<(Uuid, i32)>, Error> {
    let found = led_to(connection, among, kind, &hashes).await?;
    let mut members: Vec<(Uuid, i32)> =
        found.into_iter().map(|(archive_id, entry)| (archive_id, entry.member as i32)).collect();
    members.sort_unstable();
    members.dedup();
    Ok(members)
}

/// Returns the members that hold events of a stream, each with their number.
pub async fn members_with_stream(
    connection: &mut Connection,
    log_id: i64,
    key: HashKey,
    stream: &str,
) -> Result<BTreeMap<(Uuid, i32), i64>, Error> {
    let found = led_to(connection, (log_id, Among::AllBut(&[])), Kind::Stream, &[key.hash(stream)]).await?;
    Ok(found.into_iter().map(|(archive_id, entry)| ((archive_id, entry.member as i32), entry.count.into())).collect())
}

/// The lookups of a log that are searched.
#[derive(Clone, Copy)]
enum Among<'a> {
    /// The lookups that lead to this archive.
    Of(Uuid),
    AllBut(&'a [Uuid]),
}

/// Returns the entries that these hashes lead to, with their archives.
async fn led_to(
    connection: &mut Connection,
    (log_id, among): (i64, Among<'_>),
    kind: Kind,
    hashes: &[Hash],
) -> Result<Vec<(Uuid, Entry)>, Error> {
    let wanted: HashSet<(u64, u32)> = hashes
        .iter()
        .map(|hash| Entry::new(kind, *hash, 0, 0, 0))
        .map(|Entry { head, tail, .. }| (head, tail))
        .collect();
    let mut firsts: Vec<i64> = hashes.iter().map(|hash| hash.0).collect();
    firsts.sort_unstable();
    firsts.dedup();
    // A lookup that was merged meanwhile is searched again as a part of its merge.
    let found = loop {
        let mut found: BTreeMap<Uuid, Vec<Entry>> = BTreeMap::new();
        let mut pages = found_pages(connection, (log_id, among), kind, &firsts);
        while let Some((lookup_id, page)) = pages.try_next().await? {
            let wanted =
                entries_of(kind, &page)?.into_iter().filter(|entry| wanted.contains(&(entry.head, entry.tail)));
            found.entry(lookup_id).or_default().extend(wanted);
        }
        drop(pages);
        found.retain(|_, entries| !entries.is_empty());
        if let Some(found) = by_archive(connection, log_id, found).await? {
            break found;
        }
    };
    let mut led_to = Vec::new();
    for (archive_id, mut entries) in found {
        // Several runs may lead to one member.
        combine(kind, &mut entries);
        led_to.extend(entries.into_iter().map(|entry| (archive_id, entry)));
    }
    Ok(led_to)
}

/// Groups entries by the archives that they lead to. Entries of an archive that is kept elsewhere by now, or is gone,
/// do not count. Returns `None` if one of the lookups is gone.
///
/// A merge names a hundred archives, and an entry means one of them, so the statement asks only for the names that
/// entries mean.
async fn by_archive(
    connection: &mut Connection,
    log_id: i64,
    by_lookup: BTreeMap<Uuid, Vec<Entry>>,
) -> Result<Option<BTreeMap<Uuid, Vec<Entry>>>, Error> {
    let (lookups, entries): (Vec<Uuid>, Vec<Entry>) = by_lookup
        .into_iter()
        .flat_map(|(lookup_id, entries)| entries.into_iter().map(move |entry| (lookup_id, entry)))
        .unzip();
    if entries.is_empty() {
        return Ok(Some(BTreeMap::new()));
    }
    let ordinals: Vec<i32> = entries
        .iter()
        .map(|entry| i32::try_from(i64::from(entry.ordinal) + 1))
        .collect::<Result<_, _>>()
        .map_err(|_| Error::Damaged("a lookup page leads to an archive that no merge has".into()))?;
    let rows: Vec<(bool, Option<Uuid>)> = sqlx::query_as(
        "SELECT lookups.id IS NOT NULL, lookups.archive_ids[entry.ordinal]
         FROM unnest($2::uuid[], $3::integer[]) WITH ORDINALITY AS entry (lookup_id, ordinal, number)
         LEFT JOIN lookups ON lookups.log_id = $1 AND lookups.id = entry.lookup_id
         ORDER BY entry.number",
    )
    .bind(log_id)
    .bind(lookups)
    .bind(ordinals)
    .fetch_all(connection)
    .await?;
    let mut found: BTreeMap<Uuid, Vec<Entry>> = BTreeMap::new();
    for ((is_there, archive_id), entry) in rows.into_iter().zip(entries) {
        if !is_there {
            return Ok(None);
        }
        if let Some(archive_id) = archive_id {
            found.entry(archive_id).or_default().push(entry);
        }
    }
    Ok(Some(found))
}

/// Returns the pages that may hold one of these hashes, each once, with the lookups that they belong to.
fn found_pages<'a>(
    connection: &'a mut Connection,
    (log_id, among): (i64, Among<'a>),
    kind: Kind,
    hashes: &'a [i64],
) -> BoxStream<'a, Result<(Uuid, Vec<u8>), Error>> {
    let (archive_id, except) = match among {
        Among::Of(archive_id) => (Some(archive_id), &[][..]),
        Among::AllBut(except) => (None, except),
    };
    sqlx::query(
        "WITH found AS (
             SELECT DISTINCT lookups.id AS lookup_id, runs.run, page.first_hash
             FROM lookups
             CROSS JOIN LATERAL generate_series(0, lookups.runs - 1) AS runs (run)
             CROSS JOIN unnest($3::bigint[]) AS wanted (hash)
             CROSS JOIN LATERAL (
                 SELECT first_hash FROM lookup_pages
                 WHERE log_id = $1 AND lookup_id = lookups.id AND kind = $2 AND run = runs.run
                   AND first_hash <= wanted.hash
                 ORDER BY first_hash DESC
                 LIMIT 1
             ) AS page
             WHERE lookups.log_id = $1 AND ($4::uuid IS NULL OR $4 = ANY(lookups.archive_ids))
               AND lookups.id <> ALL($5)
         )
         SELECT lookup_id, lookup_pages.entries
         FROM found JOIN lookup_pages USING (lookup_id, run, first_hash)
         WHERE lookup_pages.log_id = $1 AND lookup_pages.kind = $2",
    )
    .bind(log_id)
    .bind(kind as i16)
    .bind(hashes)
    .bind(archive_id)
    .bind(except)
    .fetch(connection)
    .map(|row| {
        let row = row?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    })
    .boxed()
}
