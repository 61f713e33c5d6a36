use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::command::wiring;
use crate::config::Config;
use crate::jobs;
use crate::store::Store;

/// What is still under way after so long is given up.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between telling clients to go elsewhere and ending their subscriptions.
const GOODBYE_DELAY: Duration = Duration::from_millis(250);
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

pub async fn run(config: &Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let store = wiring::open_store(config).await?;
    serve(config, store, shutdown, |Addresses { http, grpc }| tracing::info!(%http, %grpc, "serving")).await
}

/// Where the service can be reached.
pub struct Addresses {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
}

/// Serves until `shutdown` is cancelled. `ready` is called once the service can be reached.
pub async fn serve(
    config: &Config,
    store: Arc<Store>,
    shutdown: CancellationToken,
    ready: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder().context("the metrics cannot be recorded")?;
    let upkeep = metrics.clone();
    tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
            upkeep.run_upkeep();
        }
    }));
    let http = bind("HTTP_ADDR", config.http_addr).await?;
    let grpc = bind("GRPC_ADDR", config.grpc_addr).await?;
    ready(Addresses { http: http.local_addr()?, grpc: grpc.local_addr()? });
    let ticks = jobs::Settings {
        archives: config.archive,
        interval: config.archive_interval,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
    };
    let jobs = store.has_bucket().then(|| jobs::start(&store, &ticks, &shutdown));
    let grpc = api::serve_grpc(grpc, config.grpc_tls.clone(), Arc::clone(&store), shutdown.clone());
    let http = api::serve_http(http, Arc::clone(&store), metrics, shutdown.clone());
    let work = async {
        // Subscriptions have no end of their own, and what is served waits for it. Clients come back at once: they
        // must have heard by then that this is not the place, or some take it for the end of everything.
        let closing = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GOODBYE_DELAY).await;
            store.close_subscriptions();
            Ok(())
        };
        tokio::try_join!(http, grpc, closing)?;
        store.subscriptions_closed().await;
        if let Some(jobs) = jobs {
            jobs.wait().await;
            store.release_leases().await;
        }
        anyhow::Ok(())
    };
    let given_up = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        outcome = work => outcome,
        () = given_up => {
            tracing::warn!("what was still under way was given up");
            Ok(())
        }
    }
}

async fn bind(variable: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{variable} {address} cannot be bound"))
}
