use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use crate::api::ImportLine;
use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::event::{Log, NewEvent};
use crate::store::{ImportBatch, ImportCounts, Store};

const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// That wait to be inserted, beside the one that is made.
const BATCHES_AHEAD: usize = 1;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

pub async fn run(config: &Config, file: &Path) -> anyhow::Result<()> {
    let store = wiring::open_store(config).await?;
    let mut progress = Progress::start("importing");
    let counts = import(&store, file, |events| progress.set(events)).await?;
    let seconds = progress.finish();
    let ImportCounts { imported, skipped } = counts;
    println!(
        "imported {} events in {seconds:.1} s, skipped {} that were there",
        report::count(imported as i64),
        report::count(skipped as i64)
    );
    Ok(())
}

/// Reads, parses and checks on another thread, a little ahead of what is inserted.
pub async fn import(store: &Store, file: &Path, mut progress: impl FnMut(u64)) -> anyhow::Result<ImportCounts> {
    let (sender, mut receiver) = mpsc::channel(BATCHES_AHEAD);
    let path = file.to_owned();
    let reader = tokio::task::spawn_blocking(move || {
        let mut batch = ImportBatch::default();
        let read = each_event(&path, |log, event| {
            batch.push(log, event)?;
            Ok(!batch.is_full() || sender.blocking_send(std::mem::take(&mut batch)).is_ok())
        });
        // What came before a bad line is imported all the same: running it again skips that. Nobody takes it where
        // importing has failed, which is what is told then.
        let _ = sender.blocking_send(batch);
        read
    });
    let mut counts = ImportCounts::default();
    while let Some(batch) = receiver.recv().await {
        counts += store.import(batch).await?;
        progress(counts.imported + counts.skipped);
    }
    let ended = store.end_import().await;
    reader.await.context("the reader of the file panicked")??;
    ended?;
    Ok(counts)
}

/// Calls `take` with every event of a file until it wants no more. Errors, its own as well, say in which line.
pub fn each_event(file: &Path, mut take: impl FnMut(Log, NewEvent) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let name = if file == Path::new("-") { PathBuf::from("standard input") } else { file.to_owned() };
    let mut lines = open(file).with_context(|| format!("{} cannot be read", name.display()))?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = lines
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .with_context(|| format!("{}, line {number}: cannot be read", name.display()))?;
        if length == 0 {
            break;
        }
        if length as u64 == LINE_BYTES_MAX {
            bail!("{}, line {number}: longer than {LINE_BYTES_MAX} bytes", name.display());
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let taken = std::str::from_utf8(text)
            .map_err(anyhow::Error::from)
            .and_then(|text| Ok(ImportLine::parse(text)?))
            .and_then(|(log, event)| take(log, event));
        if !taken.with_context(|| format!("{}, line {number}", name.display()))? {
            break;
        }
    }
    Ok(())
}

/// Compressed or not, its first bytes tell.
fn open(file: &Path) -> std::io::Result<Box<dyn BufRead>> {
    let mut raw: Box<dyn BufRead> = match file.to_str() {
        Some("-") => Box::new(BufReader::new(std::io::stdin())),
        _ => Box::new(BufReader::new(File::open(file)?)),
    };
    if raw.fill_buf()?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(raw))));
    }
    Ok(raw)
}
