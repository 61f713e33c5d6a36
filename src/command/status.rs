use clap::Args;

use crate::command::{report, wiring};
use crate::config::Config;
use crate::event::Instant;
use crate::store::{ArchiveRun, Owner, Remainders, Status, Store, TopicStatus, Trouble, TroubleKind};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Show every topic, and not only the topics with most events in Postgres
    #[arg(long)]
    all: bool,
}

pub async fn run(config: &Config, Arguments { all }: Arguments) -> anyhow::Result<()> {
    let store = wiring::connect(config).await?;
    let status = if all { store.status_of_all().await? } else { store.status().await? };
    report::say!("{}", text(&status, config.store.eligibility.batch_size).trim_end());
    if store.has_bucket() {
        report::say!("{}", bucket(&store).await);
    }
    Ok(())
}

/// Says who owns the bucket. A bucket that is away does not keep the rest of the status from being shown.
async fn bucket(store: &Store) -> String {
    let whose = match store.bucket_owner().await {
        Ok(Owner::Ours | Owner::Challenged) => "owned by this database".to_owned(),
        Ok(Owner::Nobody) => "not marked as anybody's yet".to_owned(),
        Ok(Owner::Restarted | Owner::Challenging { .. }) => {
            "owned by this database, once nobody else has answered: Postgres was started anew".to_owned()
        }
        Ok(Owner::Copied { epoch }) => {
            format!(
                "owned by another database (epoch {epoch}), of which this one is a copy: nothing is written from here"
            )
        }
        Ok(Owner::Another { deployment_id }) => format!("of another deployment, {deployment_id}"),
        Err(error) => format!("not known whose it is: {error}"),
    };
    let only = if store.is_read_only() { ", and only read (S3_READ_ONLY)" } else { "" };
    format!("bucket: {whose}{only}")
}

/// Returns a table of topics, the totals of all topics, the old events that are too few to be archived, the last
/// archive run, and the objects in trouble.
pub fn text(status: &Status, batch_size: u64) -> String {
    let Status { totals, topics, remainders, table_bytes, last_run, troubles, trouble_count } = status;
    let mut out = table(topics);
    let hidden = totals.logs - topics.len() as i64;
    if hidden > 0 {
        out.push_str(&format!("… and {} more topics, which --all shows\n", report::count(hidden)));
    }
    out.push_str(&format!(
        "\nall topics: {} with {} events, {} of them in Postgres and {} archived, in {} on S3\n",
        report::count(totals.logs),
        report::count(totals.events),
        report::count(totals.hot_events),
        report::count(totals.archived_events),
        report::bytes(totals.archived_object_bytes)
    ));
    out.push_str(&format!("table of hot events on disk, with its indexes: {}\n", report::bytes(*table_bytes)));
    out.push_str(&not_archived(remainders, batch_size));
    out.push_str(&last_archive_run(last_run.as_ref()));
    out.push_str(&objects_in_trouble(troubles, *trouble_count));
    out
}

fn table(topics: &[TopicStatus]) -> String {
    let header = ["tenant", "topic", "events", "hot", "in Postgres", "archived", "in S3", "oldest hot event"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(topics.iter().map(row));
    let widths: Vec<usize> =
        (0..header.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// Returns a line for each object in trouble, and the number of those that are not shown.
fn objects_in_trouble(troubles: &[Trouble], count: i64) -> String {
    if count == 0 {
        return String::new();
    }
    let mut out = format!("objects in trouble: {}\n", report::count(count));
    for trouble in troubles {
        let what = match trouble.kind {
            TroubleKind::Read => "cannot be read",
            TroubleKind::Delete => "not purged",
            TroubleKind::Recover => "not recovered",
        };
        let since = Instant::from_unix_nanos(trouble.since.unix_timestamp_nanos() as i64).to_rfc3339();
        out.push_str(&format!("{what} since {since}: {}: {}\n", Store::object_of(trouble), trouble.why));
    }
    let rest = count - troubles.len() as i64;
    if rest > 0 {
        out.push_str(&format!("and {} more\n", report::count(rest)));
    }
    out
}

fn row(TopicStatus { log_row, hot_bytes, oldest_hot_raised_at }: &TopicStatus) -> [String; 8] {
    let name = |name: &str| if name.is_empty() { "(none)".to_owned() } else { name.escape_debug().to_string() };
    [
        name(log_row.log.tenant()),
        name(log_row.log.topic()),
        report::count(log_row.head_position),
        report::count(log_row.hot_count()),
        format!("~{}", report::bytes(*hot_bytes)),
        report::count(log_row.archived_count),
        report::bytes(log_row.archived_object_bytes),
        oldest_hot_raised_at.map_or_else(|| "-".to_owned(), Instant::to_rfc3339),
    ]
}

fn not_archived(Remainders { topics, events, bytes }: &Remainders, batch_size: u64) -> String {
    if *events == 0 {
        return String::new();
    }
    format!(
        "not archived: {} old events in {} topics, about {} on disk, are fewer than STREAMS_ARCHIVE_SIZE ({}) each\n",
        report::count(*events),
        report::count(*topics),
        report::bytes(*bytes),
        report::count(batch_size as i64)
    )
}

fn last_archive_run(run: Option<&ArchiveRun>) -> String {
    let Some(ArchiveRun { started_at, finished_at, archives, events, error, .. }) = run else {
        return "last archive run: none yet\n".to_owned();
    };
    let seconds = (*finished_at - *started_at).as_seconds_f64();
    let started_at = Instant::from_unix_nanos(started_at.unix_timestamp_nanos() as i64).to_rfc3339();
    let outcome = error.as_ref().map_or_else(|| "succeeded".to_owned(), |error| format!("failed: {error}"));
    format!(
        "last archive run: {started_at}, {} events in {} objects in {seconds:.1} s, {outcome}\n",
        report::count(*events),
        report::count(*archives)
    )
}
