use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::command::{import, report};
use crate::event::{Instant, Log};

/// The path of the loan applications, from the repository or from the working directory.
const LOAN_APPLICATIONS: &str = "../shared/data/loan-applications.ndjson.gz";
/// The number of events that are made: as many as the loan applications have.
const MADE_EVENTS: u64 = 262_200;

/// A file to import.
pub struct Data {
    pub path: PathBuf,
    pub description: String,
}

/// Returns the file that was asked for, or the loan applications, or, where they are not at hand, a file of made
/// events; and the log of its first event.
pub fn find(wanted: Option<PathBuf>, folder: &Path) -> anyhow::Result<(Data, Log)> {
    let data = match wanted {
        Some(path) => Data { description: format!("{}", path.display()), path },
        None => match loan_applications() {
            Some(path) => Data {
                path,
                description: "262,200 events of a bank's loan process (BPI Challenge 2012, 4TU.ResearchData)".into(),
            },
            None => Data {
                path: make(&folder.join("made.ndjson.gz"))?,
                description: format!(
                    "{LOAN_APPLICATIONS} is not there: made {} events instead; --data FILE imports others",
                    report::count(MADE_EVENTS as i64)
                ),
            },
        },
    };
    let mut first = None;
    import::each_event(&data.path, |_, log, _| {
        first = Some(log);
        Ok(false)
    })?;
    let log = first.with_context(|| format!("{} holds no event", data.path.display()))?;
    Ok((data, log))
}

fn loan_applications() -> Option<PathBuf> {
    let places =
        [Path::new(LOAN_APPLICATIONS).to_owned(), Path::new(env!("CARGO_MANIFEST_DIR")).join(LOAN_APPLICATIONS)];
    places.into_iter().find(|path| path.exists())
}

/// Makes the events of a shop's orders, one event a minute.
fn make(path: &Path) -> anyhow::Result<PathBuf> {
    const TYPES: [&str; 6] =
        ["order.placed", "order.paid", "order.packed", "order.shipped", "order.delivered", "order.reviewed"];
    let start = Instant::parse("2020-01-01T00:00:00Z")?.unix_nanos();
    let file = File::create(path).with_context(|| format!("{} cannot be made", path.display()))?;
    let mut out = GzEncoder::new(file, Compression::fast());
    let mut line = String::new();
    for number in 0..MADE_EVENTS {
        let (order, step) = (number / TYPES.len() as u64, (number % TYPES.len() as u64) as usize);
        let raised_at = Instant::from_unix_nanos(start + number as i64 * 60_000_000_000).to_rfc3339();
        line.clear();
        writeln!(
            line,
            "{{\"id\":\"event-{number}\",\"tenant_id\":\"acme-shop\",\"topic\":\"orders\",\"stream\":\"order-{order}\",\
             \"type\":\"{}\",\"raised_at\":\"{raised_at}\",\"payload\":{{\"customer\":\"customer-{}\",\"price\":{}.50}}}}",
            TYPES[step],
            order % 997,
            order % 89,
        )?;
        out.write_all(line.as_bytes())?;
    }
    out.finish()?;
    Ok(path.to_owned())
}
