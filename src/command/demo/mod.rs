//! The whole product on real events, in one command: import, archive, read everything back, edit an archived event.
//! Everything lies in one temporary folder, which is gone afterwards.

mod data;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::api::EventDocument;
use crate::bucket::Bucket;
use crate::command::progress::Progress;
use crate::command::{import, report, serve, status, wiring};
use crate::config::Config;
use crate::embedded::{Durability, Postgres, S3Server};
use crate::event::{Event, Filter, Log, NewEvent, Patch};
use crate::store::{Conflicts, EditRequest, Query, Store};

const ACCESS_KEY: &str = "coldstream";
const SECRET_KEY: &str = "coldstream-demo";
const BUCKET: &str = "events";

pub async fn run(once: bool, data: Option<PathBuf>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder =
        tempfile::Builder::new().prefix("coldstream-demo-").tempdir().context("no temporary folder can be made")?;
    let work = show(&folder, once, data, shutdown.clone());
    shutdown.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

async fn show(folder: &TempDir, once: bool, data: Option<PathBuf>, shutdown: CancellationToken) -> anyhow::Result<()> {
    heading("A Postgres and an S3 server of its own");
    let postgres = Postgres::start(folder.path(), Durability::Full).await?;
    let objects = folder.path().join("objects");
    std::fs::create_dir(&objects).with_context(|| format!("{} cannot be made", objects.display()))?;
    let s3 = S3Server::start(&objects, ACCESS_KEY, SECRET_KEY, Durability::Full).await?;
    println!("Postgres   {} (programs: {})", postgres.socket_folder().display(), postgres.programs().display());
    println!("S3         http://{}/{BUCKET}", s3.endpoint());
    let config = config(&postgres, &s3)?;
    let store = wiring::open_store(&config).await?;

    let (file, log) = data::find(data, folder.path())?;
    import_events(&store, &file, &log).await?;
    let table_bytes = store.status().await?.table_bytes;
    archive_events(&store, &config).await?;
    compare(&store, &file).await?;
    edit_one(&store, &config, &log).await?;
    sizes(&store, &config, table_bytes).await?;
    if once {
        return Ok(());
    }
    let listeners = serve::Listeners::bind(&config).await?;
    serve::serve(&config, listeners, store, shutdown, |addresses| next(&postgres, &log, &addresses)).await
}

fn config(postgres: &Postgres, s3: &S3Server) -> anyhow::Result<Config> {
    let variables = [
        ("POSTGRES_CONNECTION", postgres.connection("postgres")),
        ("STREAMS_ARCHIVE", "true".to_owned()),
        ("S3_ENDPOINT", s3.endpoint()),
        ("S3_SSL", "false".to_owned()),
        ("S3_ACCESS_KEY", ACCESS_KEY.to_owned()),
        ("S3_SECRET_KEY", SECRET_KEY.to_owned()),
        ("S3_BUCKET", BUCKET.to_owned()),
    ];
    Ok(Config::from_variables(variables.map(|(name, value)| (name.to_owned(), value)))?)
}

async fn import_events(store: &Store, file: &data::Data, log: &Log) -> anyhow::Result<()> {
    heading("Import");
    println!("{}", file.description);
    let mut progress = Progress::start("importing");
    let imported = import::import(store, &file.path, Conflicts::StopAt, |events| progress.set(events)).await?;
    let seconds = progress.finish();
    println!("{} events of {log} in {seconds:.1} s", report::count(imported.events as i64));
    Ok(())
}

async fn archive_events(store: &Store, config: &Config) -> anyhow::Result<()> {
    heading("Archive");
    let eligibility = &config.store.eligibility;
    println!(
        "events older than {} days, {} at a time",
        eligibility.older_than_days,
        report::count(eligibility.batch_size as i64)
    );
    let mut progress = Progress::start("archiving");
    let archived = store.archive(|_, archived| progress.set(archived.events as u64)).await?;
    let seconds = progress.finish();
    println!(
        "{} events moved to {} objects in {seconds:.1} s",
        report::count(archived.events),
        report::count(archived.archives)
    );
    for object in Bucket::new(config.bucket()?)?.list("", None).await? {
        println!("  {:>9}  s3://{BUCKET}/{}", report::bytes(object.bytes), object.key);
    }
    println!("\n{}", status::text(&store.status().await?, config.store.eligibility.batch_size).trim_end());
    Ok(())
}

/// Reads everything back, from the bucket and from Postgres, and compares it with its source.
async fn compare(store: &Arc<Store>, file: &data::Data) -> anyhow::Result<()> {
    heading("Read everything back");
    let path = file.path.clone();
    let sources = tokio::task::spawn_blocking(move || {
        let mut sources: HashMap<Log, Vec<NewEvent>> = HashMap::new();
        import::each_event(&path, |_, log, event| {
            sources.entry(log).or_default().push(event);
            Ok(true)
        })?;
        anyhow::Ok(sources)
    });
    let mut progress = Progress::start("reading");
    let mut read = 0;
    for (log, sources) in sources.await.context("the reader of the file panicked")?? {
        let everything = Query { filter: Filter::All, from: 1, skip: 0, limit: i64::MAX };
        let mut windows = Box::pin(store.replay(log.clone(), everything));
        let mut expected = sources.into_iter();
        while let Some(window) = windows.next().await {
            for event in window? {
                let source = expected.next().with_context(|| format!("{log} has more events than its source"))?;
                ensure!(source.is_same_as(&event), "the event at position {} is not its source", event.position);
                read += 1;
            }
            progress.set(read);
        }
        ensure!(expected.next().is_none(), "{log} has fewer events than its source");
    }
    let seconds = progress.finish();
    println!("{} events in {seconds:.1} s, each equal to its source in every field", report::count(read as i64));
    Ok(())
}

async fn edit_one(store: &Store, config: &Config, log: &Log) -> anyhow::Result<()> {
    heading("Edit an archived event");
    let Some(archive) = store.archives(log).await?.pop() else {
        let batch_size = report::count(config.store.eligibility.batch_size as i64);
        println!("nothing is archived: there are fewer than {batch_size} old events");
        return Ok(());
    };
    let middle = Query { filter: Filter::All, from: archive.first_position + archive.count / 2, skip: 0, limit: 1 };
    let Some(event) = store.read(log, &middle).await?.events.pop() else { bail!("the archive is empty") };
    let Some(field) = event.payload.members().first().map(|member| member.raw_key.to_owned()) else {
        println!("the event at position {} has no field to edit", event.position);
        return Ok(());
    };
    show_event("before", log, &event);
    let request = EditRequest {
        patch: Patch::parse(&format!("{{{field}:\"erased\"}}"))?,
        actor: "demo".into(),
        reason: "right to erasure".into(),
        ticket: "DEMO-1".into(),
    };
    store.edit(log, &event.id, &request).await?.context("the event is gone")?;
    show_event("after", log, &store.event(log, &event.id).await?.context("the event is gone")?);
    store.rewrite().await?;
    let rewritten = store.archives(log).await?.into_iter().find(|rewritten| rewritten.id == archive.id);
    let rewritten = rewritten.context("the archive is gone")?;
    println!(
        "object  {}, rewritten in place: generation {} -> {}",
        archive.id, archive.generation, rewritten.generation
    );
    show_event("from S3", log, &store.event(log, &event.id).await?.context("the event is gone")?);
    Ok(())
}

fn show_event(label: &str, log: &Log, event: &Event) {
    println!("{label:<7} {}", String::from_utf8_lossy(&EventDocument::new(log, event).to_json()));
}

async fn sizes(store: &Store, config: &Config, table_bytes_before: i64) -> anyhow::Result<()> {
    heading("Sizes");
    let status = store.status().await?;
    let bucket_bytes: i64 =
        Bucket::new(config.bucket()?)?.list("", None).await?.iter().map(|object| object.bytes).sum();
    let (hot, all) = (status.totals.hot_events, status.totals.events);
    let free = table_bytes_before as f64 * (1.0 - hot as f64 / all.max(1) as f64);
    println!("                   before       after");
    println!("rows in Postgres   {:<12} {}", report::count(all), report::count(hot));
    println!(
        "table and indexes  {:<12} {}, of which about {} are free for new events",
        report::bytes(table_bytes_before),
        report::bytes(status.table_bytes),
        report::bytes(free as i64)
    );
    println!("bucket             {:<12} {}", report::bytes(0), report::bytes(bucket_bytes));
    Ok(())
}

fn next(postgres: &Postgres, log: &Log, serve::Addresses { http: address, grpc }: &serve::Addresses) {
    heading("The service is running; Ctrl-C ends it and removes everything");
    println!("HTTP on {address}, gRPC on {grpc}");
    let path = format!("http://{address}/v1/topics/{}/events", log.topic());
    let tenant = log.tenant();
    println!("curl '{path}?tenant={tenant}&limit=2'");
    println!("curl '{path}?tenant={tenant}&type=A_DECLINED.COMPLETE&page=50&limit=3'");
    println!("curl -H 'Accept: application/x-ndjson' '{path}?tenant={tenant}' | wc -l");
    println!("curl http://{address}/openapi.json");
    println!("psql -h {} -U coldstream postgres", postgres.socket_folder().display());
}

fn heading(text: &str) {
    println!("\n== {text}");
}
