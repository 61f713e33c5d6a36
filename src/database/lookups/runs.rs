//! Runs in the making, and the rows that they become.

use uuid::Uuid;

use crate::database::lookups::HashKey;
use crate::database::lookups::pages::{Entry, Hash, Kind, Page, PageWriter, combine};
use crate::database::{ArchiveKey, Connection, Error};

/// The number of events at which a run ends, with the member that it has begun.
const RUN_EVENTS: usize = 65_535;

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

    pub(super) fn of(&self, kind: Kind) -> &[(Hash, u16)] {
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

pub(super) fn entries_for(kind: Kind, hashes: &[(Hash, u16)]) -> Vec<Entry> {
    hashes.iter().map(|(hash, member)| Entry::new(kind, *hash, 0, (*member).into(), 1)).collect()
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

pub(super) async fn insert_pages(
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

pub(super) async fn delete_pages(connection: &mut Connection, log_id: i64, lookup_ids: &[Uuid]) -> Result<(), Error> {
    for statement in [
        "DELETE FROM lookups WHERE log_id = $1 AND id = ANY($2)",
        "DELETE FROM lookup_pages WHERE log_id = $1 AND lookup_id = ANY($2)",
    ] {
        sqlx::query(statement).bind(log_id).bind(lookup_ids).execute(&mut *connection).await?;
    }
    Ok(())
}
