use std::time::Duration;

use anyhow::Context;
use clap::Args;
use uuid::Uuid;

use crate::command::progress::Progress;
use crate::command::{report, wiring};
use crate::config::Config;
use crate::event::{Log, PositionRange};
use crate::store::{Error, Restored, Selection};

/// The delay between two attempts while another writer is at work.
const LOOK_AGAIN_DELAY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Arguments {
    /// All events of this archive
    #[arg(long, value_name = "ID", required_unless_present = "topic", conflicts_with_all = ["topic", "tenant"])]
    archive: Option<Uuid>,
    #[arg(long)]
    topic: Option<String>,
    /// The tenant of the topic; the global tenant if it is not given
    #[arg(long, requires = "topic", default_value = "")]
    tenant: String,
    /// The events of this stream
    #[arg(long, requires = "topic", required_unless_present_any = ["archive", "from"], conflicts_with_all = ["from", "to"])]
    stream: Option<String>,
    /// The events from this position
    #[arg(long, value_name = "POSITION", requires_all = ["topic", "to"])]
    from: Option<i64>,
    /// The events up to this position
    #[arg(long, value_name = "POSITION", requires = "from")]
    to: Option<i64>,
    /// The days for which the events are not archived again
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    hold_days: u32,
}

impl Arguments {
    fn selection(self) -> anyhow::Result<Selection> {
        let Arguments { archive, topic, tenant, stream, from, to, hold_days: _ } = self;
        if let Some(archive) = archive {
            return Ok(Selection::Archive(archive));
        }
        let log = Log::new(tenant, topic.unwrap_or_default())?;
        Ok(match stream {
            Some(stream) => Selection::Stream(log, stream),
            None => Selection::Range(log, PositionRange::closed(from.unwrap_or_default(), to.unwrap_or_default())),
        })
    }
}

pub async fn run(config: &Config, arguments: Arguments) -> anyhow::Result<()> {
    let hold_days = arguments.hold_days;
    let selection = arguments.selection()?;
    let store = wiring::open_store(config).await?;
    let mut progress = Progress::start("restoring");
    let (mut before, mut now) = (Restored::default(), Restored::default());
    let hot = loop {
        let outcome = store
            .restore(&selection, hold_days, |restored| {
                now = restored;
                progress.set((before.events + restored.events) as u64);
            })
            .await;
        match outcome {
            Ok(restored) => break restored.hot - before.events,
            Err(Error::GaveWay(why)) => tracing::info!(%why, "waiting"),
            Err(error) if before.events + now.events > 0 => {
                let done = report::count(before.events + now.events);
                return Err(error).context(format!("{done} events were restored, and not the rest"));
            }
            Err(error) => return Err(error.into()),
        }
        before.events += now.events;
        before.archives += now.archives;
        now = Restored::default();
        tokio::time::sleep(LOOK_AGAIN_DELAY).await;
    };
    let (events, archives) = (before.events + now.events, before.archives + now.archives);
    let seconds = progress.finish();
    report::say!(
        "restored {} events from {} archives in {seconds:.1} s; {} were hot already",
        report::count(events),
        report::count(archives),
        report::count(hot)
    );
    Ok(())
}
