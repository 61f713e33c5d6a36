//! The peak memory of one `coldstream archive`, by the size of its batch: it has to be flat. Postgres and the S3 server
//! run elsewhere, as they would: their memory does not count.

use coldstream::embedded::Durability;

use crate::report::{Report, count};
use crate::servers::{self, Servers};
use crate::{Mode, events};

pub async fn run(mode: Mode) -> Report {
    let mut report = Report::new("Memory of an archive run");
    report.paragraph(
        "The peak resident memory of `coldstream archive`, by the size of the one batch that it moves (840 bytes of JSON \
         an event). Idle is a run that finds nothing to do.",
    );
    let servers = Servers::start(Durability::None).await;
    let mut rows = Vec::new();
    // The last batch has 10 GB.
    let sizes = mode.pick(&[10_000, 100_000, 300_000, 1_000_000, 12_000_000][..], &[1_000]);
    for batch_size in sizes.iter().filter(|events| **events <= events::max()) {
        let database = format!("batch_{batch_size}");
        events::import(&servers, &database, *batch_size).await;
        let archive = || {
            let mut command = servers.coldstream(&database, &["archive"]);
            command.env("STREAMS_ARCHIVE_SIZE", batch_size.to_string());
            servers::run(command)
        };
        let (archived, idle) = (archive().await, archive().await);
        let mib = |kib: i64| format!("{} MiB", kib / 1024);
        rows.push([
            count(*batch_size as f64),
            mib(archived.peak_kib),
            mib(idle.peak_kib),
            format!("{:.1} s", archived.seconds),
        ]);
    }
    report.table(["batch, events", "peak", "idle", "time"], rows);
    report
}
