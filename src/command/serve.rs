use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::command::listener::{self, Listener};
use crate::command::{descriptors, logging, memory, wiring};
use crate::config::{self, Config};
use crate::jobs;
use crate::store::Store;

/// The time in which clients can come back once their subscriptions have ended: a client that finds no process any more
/// is refused.
const SILENCE: Duration = Duration::from_millis(100);
/// The time between two attempts to compare the database with a bucket that is away.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(1);
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The time after which memory that a load took is given back to the system.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

pub async fn run(config: &Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listeners = Listeners::bind(config).await?;
    let store = wiring::connect(config).await?;
    let is_reconciled = !store.has_bucket() || wiring::is_reconciled(&store, config).await?;
    let said = |Addresses { http, grpc }: Addresses| tracing::info!(%http, %grpc, "serving");
    let serving = serve(config, listeners, Arc::clone(&store), shutdown.clone(), said);
    let reconciling = async {
        if !is_reconciled {
            tracing::warn!("the bucket is away: the database is compared with it once it is back");
            shutdown.run_until_cancelled(reconciled(config, &store)).await.transpose()?;
        }
        Ok(())
    };
    tokio::try_join!(serving, reconciling).map(|((), ())| ())
}

/// Returns once the database is known to know what is in the bucket. An error has to end the service.
async fn reconciled(config: &Config, store: &Store) -> anyhow::Result<()> {
    loop {
        match wiring::is_reconciled(store, config).await {
            Ok(true) => return Ok(()),
            // Postgres may be away by now.
            Err(error) if !wiring::is_away(&error) => return Err(error),
            Ok(false) | Err(_) => tokio::time::sleep(RECONCILE_INTERVAL).await,
        }
    }
}

/// The ports of the service, which are bound before a store is opened: clients that come meanwhile wait.
pub struct Listeners {
    http: TcpListener,
    grpc: Listener,
}

impl Listeners {
    pub async fn bind(config: &Config) -> anyhow::Result<Listeners> {
        let http = listener::bind("HTTP_ADDR", config.http_addr).await?;
        let grpc = Listener::bind("GRPC_ADDR", config.grpc_addr).await?;
        Ok(Listeners { http, grpc })
    }
}

/// The addresses at which the service can be reached.
pub struct Addresses {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// Serves until `shutdown` is cancelled, and calls `ready` once the service can be reached.
pub async fn serve(
    config: &Config,
    Listeners { http, grpc: listener }: Listeners,
    store: Arc<Store>,
    shutdown: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    let metrics = record_metrics(&shutdown)?;
    return_memory(&store, &shutdown);
    ready(Addresses { http: http.local_addr()?, grpc: listener.address()? });
    let jobs = store.has_bucket().then(|| jobs::start(&store, &jobs_settings(config), &shutdown));
    // Subscriptions do not end by themselves, and the server waits for its last call to end.
    let leaving = async {
        shutdown.cancelled().await;
        if let Err(error) = listener.stop_answering() {
            tracing::warn!(%error, "clients that come before the next process will be refused");
        }
        store.close_subscriptions();
    };
    let grpc = api::serve_grpc(listener.for_server()?, grpc_settings(config), Arc::clone(&store), leaving);
    let http = api::serve_http(http, http_settings(config), Arc::clone(&store), metrics, shutdown.clone());
    let silence = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SILENCE).await;
        Ok(())
    };
    // Leases are released at once, so that other processes may go on here, however long a caller takes.
    let working = async {
        if let Some(jobs) = jobs {
            jobs.wait().await;
            store.release_leases().await;
        }
        Ok(())
    };
    let serving = async {
        tokio::try_join!(http, grpc, silence)?;
        store.subscriptions_closed().await;
        anyhow::Ok(())
    };
    let work = async { tokio::try_join!(serving, working).map(|((), ())| ()) };
    let given_up = async {
        shutdown.cancelled().await;
        tokio::time::sleep(config.shutdown_timeout).await;
    };
    tokio::select! {
        outcome = work => outcome,
        () = given_up => {
            tracing::warn!("work that was still in flight was given up");
            Ok(())
        }
    }
}

fn record_metrics(shutdown: &CancellationToken) -> anyhow::Result<PrometheusHandle> {
    let metrics = PrometheusBuilder::new().install_recorder().context("the metrics cannot be recorded")?;
    let upkeep = metrics.clone();
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
            upkeep.run_upkeep();
            metrics::gauge!("coldstream_log_lines_lost").set(logging::lost_lines() as f64);
        }
    }));
    Ok(metrics)
}

/// Returns memory that a load took, again and again until `shutdown` is cancelled.
fn return_memory(store: &Arc<Store>, shutdown: &CancellationToken) {
    let store = Arc::clone(store);
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(MEMORY_INTERVAL).await;
            store.forget_old_members().await;
            // The call runs on a thread of its own, since it looks at all free memory.
            let _ = tokio::task::spawn_blocking(memory::return_free_memory).await;
        }
    }));
}

fn jobs_settings(config: &Config) -> jobs::Settings {
    jobs::Settings {
        archives: config.archive,
        interval: config.archive_interval,
        look_interval: config::LOOK_INTERVAL,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
    }
}

fn http_settings(config: &Config) -> api::HttpSettings {
    api::HttpSettings {
        connections_max: descriptors::within_limit("HTTP_CONNECTIONS_MAX", config.http.connections_max),
        ..config.http
    }
}

fn grpc_settings(config: &Config) -> api::GrpcSettings {
    api::GrpcSettings {
        connections_max: descriptors::within_limit("GRPC_CONNECTIONS_MAX", config.grpc.connections_max),
        ..config.grpc.clone()
    }
}
