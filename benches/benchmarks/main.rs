//! The costs of Coldstream beside those of doing the same by hand, in one run, on a private Postgres and a private S3
//! server.
//!
//!     cargo bench --bench benchmarks                  # everything, written to docs/benchmarks/
//!     cargo bench --bench benchmarks -- publish       # some of it
//!
//! `cargo test` runs every section with few events and writes to a temporary folder, to prove that they all run.

mod archive_memory;
mod archive_run;
mod cold_reads;
mod edits;
mod events;
mod growth;
mod memory;
mod outage;
mod plot;
mod publish;
mod report;
mod servers;
mod steady_state;
mod stream_reads;
mod usage;

use std::path::PathBuf;

use futures::future::{FutureExt, LocalBoxFuture};

use report::Report;

/// The size of a run: for the figures, or only to prove that they can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Full,
    Quick,
}

impl Mode {
    pub fn pick<T>(self, full: T, quick: T) -> T {
        if self == Mode::Full { full } else { quick }
    }
}

type Section = (&'static str, fn(Mode) -> LocalBoxFuture<'static, Report>);

const SECTIONS: [Section; 10] = [
    ("archive_run", |mode| archive_run::run(mode).boxed_local()),
    ("archive_memory", |mode| archive_memory::run(mode).boxed_local()),
    ("memory", |mode| memory::run(mode).boxed_local()),
    ("publish", |mode| publish::run(mode).boxed_local()),
    ("edits", |mode| edits::run(mode).boxed_local()),
    ("steady_state", |mode| steady_state::run(mode).boxed_local()),
    ("cold_reads", |mode| cold_reads::run(mode).boxed_local()),
    ("stream_reads", |mode| stream_reads::run(mode).boxed_local()),
    ("outage", |mode| outage::run(mode).boxed_local()),
    ("growth", |mode| growth::run(mode).boxed_local()),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, folder] = arguments.as_slice()
        && first == servers::SERVE_S3
    {
        return servers::serve_s3(folder.as_ref());
    }
    // Only `cargo bench` gives this argument.
    let mode = if arguments.iter().any(|argument| argument == "--bench") { Mode::Full } else { Mode::Quick };
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|it| !it.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|name| !SECTIONS.iter().any(|(known, _)| known == *name)) {
        let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no section {unknown}; there are {}", known.join(", "));
        std::process::exit(2);
    }
    let unwritten = tempfile::tempdir().expect("the temporary folder can be written");
    let folder =
        mode.pick(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks")), unwritten.path().to_owned());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    for (name, run) in SECTIONS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|it| it == name)) {
        let report = runtime.block_on(run(mode));
        print!("{}", report.text());
        report.write(&folder, name);
    }
}
