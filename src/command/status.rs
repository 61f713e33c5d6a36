use crate::command::{report, wiring};
use crate::config::Config;
use crate::event::Instant;
use crate::store::{ArchiveRun, Status, TopicStatus};

pub async fn run(config: &Config) -> anyhow::Result<()> {
    print!("{}", text(&wiring::connect(config).await?.status().await?));
    Ok(())
}

/// A table of the topics, and the last run.
pub fn text(status: &Status) -> String {
    let header = ["tenant", "topic", "events", "hot", "in Postgres", "archived", "in S3", "oldest hot event"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(status.topics.iter().map(row));
    let widths: Vec<usize> =
        (0..header.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out.push_str(&format!("\ntable of hot events on disk, with its indexes: {}\n", report::bytes(status.table_bytes)));
    out.push_str(&last_run(status.last_run.as_ref()));
    out
}

fn row(TopicStatus { topic, hot_bytes, oldest_hot_raised_at }: &TopicStatus) -> [String; 8] {
    let name = |name: &str| if name.is_empty() { "(none)".to_owned() } else { name.escape_debug().to_string() };
    [
        name(topic.log.tenant()),
        name(topic.log.topic()),
        report::count(topic.head_position),
        report::count(topic.hot_count()),
        format!("~{}", report::bytes(*hot_bytes)),
        report::count(topic.archived_count),
        report::bytes(topic.archived_object_bytes),
        oldest_hot_raised_at.map_or_else(|| "-".to_owned(), Instant::to_rfc3339),
    ]
}

fn last_run(run: Option<&ArchiveRun>) -> String {
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
