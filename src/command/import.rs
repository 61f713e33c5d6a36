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
use crate::store::{ImportCounts, Store};

const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Parsed events that are passed on together, and how often as many wait to be inserted.
const EVENTS_TOGETHER: usize = 500;
const AHEAD: usize = 16;
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

/// Reads and parses on another thread, a little ahead of what is inserted.
pub async fn import(store: &Store, file: &Path, mut progress: impl FnMut(u64)) -> anyhow::Result<ImportCounts> {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    let path = file.to_owned();
    let reader = tokio::task::spawn_blocking(move || {
        let mut together = Vec::with_capacity(EVENTS_TOGETHER);
        let read = each_event(&path, |log, event| {
            together.push((log, event));
            together.len() < EVENTS_TOGETHER || sender.blocking_send(std::mem::take(&mut together)).is_ok()
        });
        // Nobody takes them where importing has failed, which is what is told then.
        let _ = sender.blocking_send(together);
        read
    });
    let mut importer = store.importer();
    while let Some(events) = receiver.recv().await {
        for (log, event) in events {
            importer.push(log, event).await?;
        }
        let ImportCounts { imported, skipped } = importer.counts();
        progress(imported + skipped);
    }
    // What came before a bad line is imported all the same: running it again skips that.
    let counts = importer.finish().await?;
    reader.await.context("the reader of the file panicked")??;
    Ok(counts)
}

/// Calls `take` with every event of a file until it wants no more.
pub fn each_event(file: &Path, mut take: impl FnMut(Log, NewEvent) -> bool) -> anyhow::Result<()> {
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
        let parsed =
            std::str::from_utf8(text).map_err(anyhow::Error::from).and_then(|text| Ok(ImportLine::parse(text)?));
        let (log, event) = parsed.with_context(|| format!("{}, line {number}", name.display()))?;
        if !take(log, event) {
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
