mod file;
mod objects;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::sync::mpsc;

use crate::api::ImportLine;
use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::event::{Log, NewEvent};
use crate::store::{Conflicts, ImportBatch, ImportUnknown, Store};

use objects::{Objects, Place};

/// The most batches that wait to be inserted, beside the one that is being made.
const BATCHES_AHEAD: usize = 1;
/// The most conflicts that are named in the log; further ones are only counted.
const NAMED_CONFLICTS_MAX: u64 = 10;

/// The result of an import: the events that it inserted, and what it skipped, by kind.
#[derive(Debug, Default)]
pub struct Imported {
    pub events: u64,
    there_already: u64,
    conflicts: u64,
    /// Events that were not imported, since an object that may hold them cannot be read.
    unknown: u64,
    blank_lines: u64,
}

/// Events that are inserted together.
#[derive(Default)]
struct Part {
    batch: ImportBatch,
    /// The place where each event was found.
    places: Vec<Place>,
}

pub async fn run(config: &Config, file: &Path, conflicts: Conflicts) -> anyhow::Result<()> {
    let store = wiring::open_store(config).await?;
    let mut progress = Progress::start("importing");
    let imported = import(&store, file, conflicts, |events| progress.set(events)).await?;
    let seconds = progress.finish();
    let Imported { events, there_already, conflicts, unknown, blank_lines } = imported;
    let count = |number: u64| report::count(number as i64);
    let mut said = format!("imported {} events in {seconds:.1} s, ", count(events));
    if conflicts > 0 {
        said.push_str(&format!("skipped {} in conflict with others of their ids, ", count(conflicts)));
    }
    if blank_lines > 0 {
        said.push_str(&format!("skipped {} blank lines, ", count(blank_lines)));
    }
    report::say!("{said}skipped {} that were there", count(there_already));
    match unknown {
        0 => Ok(()),
        _ => bail!(
            "{} events were not imported, since objects that may hold them cannot be read: once they can, import again",
            count(unknown)
        ),
    }
}

/// Imports a file. Another thread reads, parses and checks, a little ahead of the inserts.
pub async fn import(
    store: &Store,
    file: &Path,
    conflicts: Conflicts,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Imported> {
    let (sender, mut receiver) = mpsc::channel(BATCHES_AHEAD);
    let (path, event_bytes_max) = (file.to_owned(), store.event_bytes_max());
    let reader = tokio::task::spawn_blocking(move || {
        let mut part = Part::default();
        let read = each_event(&path, |place, log, event| {
            event.check_size(event_bytes_max)?;
            part.batch.push(log, event)?;
            part.places.push(place);
            Ok(!part.batch.is_full() || sender.blocking_send(std::mem::take(&mut part)).is_ok())
        });
        // The events before a bad line are imported all the same: a second run skips them. If importing has failed,
        // nobody takes them, and that failure is reported.
        let _ = sender.blocking_send(part);
        read
    });
    let (mut imported, mut conflicting) = (Imported::default(), Ok(()));
    while conflicting.is_ok()
        && let Some(Part { batch, places }) = receiver.recv().await
    {
        let counts = store.import(batch, conflicts).await?;
        imported.events += counts.imported;
        imported.there_already += counts.skipped;
        for conflict in counts.conflicts {
            let named = format!("{}, {}: another event of {}", name_of(file), places[conflict.index], conflict.log);
            let named = format!("{named} has the id {:?} and other content", conflict.id);
            if conflicts != Conflicts::Skip {
                conflicting = Err(anyhow::anyhow!("{named}; with --skip-conflicts the others are imported"));
                break;
            }
            imported.conflicts += 1;
            if imported.conflicts <= NAMED_CONFLICTS_MAX {
                tracing::warn!("{named}: skipped");
            }
        }
        for ImportUnknown { index, log, count, why } in counts.unknown {
            imported.unknown += count as u64;
            let place = format!("{}, {}", name_of(file), places[index]);
            tracing::error!("{place}: {} events of {log} are not imported: {why}", report::count(count as i64));
        }
        progress(imported.events + imported.there_already);
    }
    drop(receiver);
    let ended = store.end_import().await;
    let read = reader.await.context("the reader of the file panicked")?;
    conflicting?;
    imported.blank_lines = read?;
    ended?;
    Ok(imported)
}

fn name_of(file: &Path) -> String {
    let name = if file == Path::new("-") { PathBuf::from("standard input") } else { file.to_owned() };
    name.display().to_string()
}

/// Calls `take` with every event of a file until `take` wants no more, and returns the number of blank lines. Errors,
/// those of `take` included, name the line.
pub fn each_event(
    file: &Path,
    mut take: impl FnMut(Place, Log, NewEvent) -> anyhow::Result<bool>,
) -> anyhow::Result<u64> {
    let name = name_of(file);
    let mut objects = Objects::new(file::open(file).with_context(|| format!("{name} cannot be read"))?);
    loop {
        let found = match objects.next() {
            Ok(None) => return Ok(objects.blank_lines()),
            Ok(Some(text)) => event(text),
            Err(error) => Err(error.into()),
        };
        let place = objects.place();
        let taken = found.and_then(|(log, event)| take(place, log, event));
        if !taken.with_context(|| format!("{name}, {place}"))? {
            return Ok(objects.blank_lines());
        }
    }
}

fn event(text: &[u8]) -> anyhow::Result<(Log, NewEvent)> {
    if memchr::memchr(0, text).is_some() {
        bail!("it has NUL characters: UTF-8 text is taken, and this may be UTF-16");
    }
    Ok(ImportLine::parse(std::str::from_utf8(text)?)?)
}
