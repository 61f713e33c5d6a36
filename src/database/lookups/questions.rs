//! Questions that lookups answer, and whether they lead to all that a run holds.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use sqlx::Row;
use uuid::Uuid;

use crate::database::lookups::HashKey;
use crate::database::lookups::pages::{Entry, Hash, Kind, combine, entries_of, head};
use crate::database::lookups::runs::{LookupRun, entries_for};
use crate::database::{ArchiveKey, Connection, Error};

/// The number of hashes that one statement looks for while a run is compared.
const HASHES_AT_ONCE: usize = 4_096;

/// Returns whether the pages lead to every event of a run. The number of a stream's events in a member is compared
/// with all that the pages keep of that member, because a run that is passed to this function ends with a member.
/// Pages may lead to more GDPR ids, because fields that were invalidated since still have their entries.
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
