//! Merges lookups, so that a search costs the same however many archives there are. The own lookups of ten archives
//! become one, and ten of those become one of a hundred archives.
//!
//! A merge reads every run once from front to back, some pages at a time, and writes the result as it comes. It leaves
//! out the entries of archives that are kept elsewhere by now. It is part of a transaction, so it replaces its sources
//! or changes nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use uuid::Uuid;

use super::pages::{Entry, Kind, PageWriter, combine, entries_of};
use super::runs::{delete_pages, insert_pages};
use crate::database::{Connection, Error};

/// The number of lookups of a level that become one of the next level.
const MERGED_AT_ONCE: i64 = 10;
/// The highest level. Its lookups, of a hundred archives each, are merged no more.
const LEVEL_MAX: i16 = 2;
/// The number of pages that are read ahead of all runs together, and that are written at once.
const PAGES_AT_ONCE: usize = 512;

/// The lookups that are to become one.
#[derive(Debug)]
pub struct Merge {
    log_id: i64,
    level: i16,
    sources: Vec<MergeSource>,
}

#[derive(Debug, sqlx::FromRow)]
struct MergeSource {
    id: Uuid,
    runs: i32,
    archive_ids: Vec<Option<Uuid>>,
}

impl Merge {
    /// The archives that the merged lookup leads to.
    fn archive_ids(&self) -> Vec<Uuid> {
        self.sources.iter().flat_map(|source| source.archive_ids.iter().copied().flatten()).collect()
    }
}

/// Returns the next merge of a log, if a level has enough lookups.
pub async fn due(connection: &mut Connection, log_id: i64) -> Result<Option<Merge>, Error> {
    for level in 0..LEVEL_MAX {
        // The lookups of an archive that is not live yet are still being written.
        let sources: Vec<MergeSource> = sqlx::query_as(
            "SELECT id, runs, archive_ids FROM lookups
             WHERE log_id = $1 AND level = $2
               AND EXISTS (SELECT FROM archives WHERE archives.log_id = $1 AND archives.id = ANY(archive_ids))
             ORDER BY id
             LIMIT $3",
        )
        .bind(log_id)
        .bind(level)
        .bind(MERGED_AT_ONCE)
        .fetch_all(&mut *connection)
        .await?;
        if sources.len() as i64 == MERGED_AT_ONCE {
            return Ok(Some(Merge { log_id, level: level + 1, sources }));
        }
    }
    Ok(None)
}

/// Returns the logs that may have something to merge. It looks at all lookups of all logs.
pub async fn logs_with_due(connection: &mut Connection) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT DISTINCT log_id FROM (
             SELECT log_id FROM lookups WHERE level < $1 GROUP BY log_id, level HAVING count(*) >= $2
         ) AS due
         ORDER BY log_id",
    )
    .bind(LEVEL_MAX)
    .bind(MERGED_AT_ONCE)
    .fetch_all(connection)
    .await?)
}

/// Writes one lookup in the place of its sources, without sums. Returns its id, and the number of its archives.
pub async fn merge(connection: &mut Connection, merge: &Merge) -> Result<(Uuid, usize), Error> {
    let Merge { log_id, level, sources } = merge;
    let (id, archive_ids) = (Uuid::now_v7(), merge.archive_ids());
    let stride = members_max(connection, *log_id, &archive_ids).await?;
    for kind in Kind::ALL {
        merge_kind(connection, merge, kind, (id, stride)).await?;
    }
    let source_ids: Vec<Uuid> = sources.iter().map(|source| source.id).collect();
    delete_pages(connection, *log_id, &source_ids).await?;
    sqlx::query("INSERT INTO lookups (log_id, id, level, runs, archive_ids) VALUES ($1, $2, $3, 1, $4)")
        .bind(log_id)
        .bind(id)
        .bind(level)
        .bind(&archive_ids)
        .execute(connection)
        .await?;
    Ok((id, archive_ids.len()))
}

/// Returns the greatest number of members that one of these archives has.
async fn members_max(connection: &mut Connection, log_id: i64, archive_ids: &[Uuid]) -> Result<u32, Error> {
    let members: i32 = sqlx::query_scalar(
        "SELECT coalesce(max(last.member) + 1, 1)
         FROM unnest($2::uuid[]) AS merged (archive_id)
         CROSS JOIN LATERAL (
             SELECT max(member) AS member FROM members WHERE log_id = $1 AND members.archive_id = merged.archive_id
         ) AS last",
    )
    .bind(log_id)
    .bind(archive_ids)
    .fetch_one(connection)
    .await?;
    Ok(members.max(1) as u32)
}

async fn merge_kind(
    connection: &mut Connection,
    merge: &Merge,
    kind: Kind,
    (id, stride): (Uuid, u32),
) -> Result<(), Error> {
    let mut runs = Runs::open(connection, merge, kind).await?;
    let mut writer = PageWriter::new(kind, stride);
    while let Some(mut entries) = runs.next(connection).await? {
        combine(kind, &mut entries);
        writer.push(&entries)?;
        let full = writer.take_full(PAGES_AT_ONCE);
        if !full.is_empty() {
            insert_pages(connection, (merge.log_id, id), 0, full).await?;
        }
    }
    insert_pages(connection, (merge.log_id, id), 0, writer.finish()).await
}

/// All runs of a merge's sources, side by side.
struct Runs {
    log_id: i64,
    kind: Kind,
    runs: Vec<Run>,
    /// The next head of each run that has one.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    pages_at_once: i64,
}

/// One run, read up to some page.
struct Run {
    lookup_id: Uuid,
    run: i32,
    /// The ordinals of the merge, by the ordinals of the run's source.
    ordinals: Vec<Option<u32>>,
    ahead: VecDeque<Entry>,
    read_to: i64,
}

impl Runs {
    async fn open(connection: &mut Connection, merge: &Merge, kind: Kind) -> Result<Runs, Error> {
        let (mut runs, mut next) = (Vec::new(), 0..);
        for MergeSource { id, runs: count, archive_ids } in &merge.sources {
            let ordinals: Vec<Option<u32>> =
                archive_ids.iter().map(|archive_id| archive_id.and_then(|_| next.next())).collect();
            runs.extend((0..*count).map(|run| Run {
                lookup_id: *id,
                run,
                ordinals: ordinals.clone(),
                ahead: VecDeque::new(),
                read_to: -1,
            }));
        }
        let pages_at_once = (PAGES_AT_ONCE / runs.len().max(1)).max(1) as i64;
        let mut opened = Runs { log_id: merge.log_id, kind, runs, heads: BinaryHeap::new(), pages_at_once };
        for index in 0..opened.runs.len() {
            opened.advance(connection, index).await?;
        }
        Ok(opened)
    }

    /// Returns all entries of the next head.
    async fn next(&mut self, connection: &mut Connection) -> Result<Option<Vec<Entry>>, Error> {
        let Some(&Reverse((head, _))) = self.heads.peek() else { return Ok(None) };
        let mut entries = Vec::new();
        while let Some(&Reverse((next, index))) = self.heads.peek()
            && next == head
        {
            self.heads.pop();
            let run = &mut self.runs[index];
            while let Some(entry) = run.ahead.pop_front_if(|entry| entry.head == head) {
                let ordinal = run.ordinals.get(entry.ordinal as usize).copied().flatten();
                entries.extend(ordinal.map(|ordinal| Entry { ordinal, ..entry }));
            }
            self.advance(connection, index).await?;
        }
        Ok(Some(entries))
    }

    /// Reads on if a run has nothing ahead, and remembers the run's next head.
    async fn advance(&mut self, connection: &mut Connection, index: usize) -> Result<(), Error> {
        let run = &mut self.runs[index];
        if run.ahead.is_empty() {
            let pages: Vec<(i64, Vec<u8>)> = sqlx::query_as(
                "SELECT first_hash, entries FROM lookup_pages
                 WHERE log_id = $1 AND lookup_id = $2 AND kind = $3 AND run = $4 AND first_hash > $5
                 ORDER BY first_hash
                 LIMIT $6",
            )
            .bind(self.log_id)
            .bind(run.lookup_id)
            .bind(self.kind as i16)
            .bind(run.run)
            .bind(run.read_to)
            .bind(self.pages_at_once)
            .fetch_all(connection)
            .await?;
            for (first_hash, page) in pages {
                run.ahead.extend(entries_of(self.kind, &page)?);
                run.read_to = first_hash;
            }
        }
        if let Some(entry) = run.ahead.front() {
            self.heads.push(Reverse((entry.head, index)));
        }
        Ok(())
    }
}
