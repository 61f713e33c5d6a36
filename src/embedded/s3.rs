//! An S3 server in this process, on a loopback port, keeping objects as files under a folder.
//!
//! Promises what `objects` promises, to every client that has the keys. Dropping the handle breaks every connection at
//! once, as the death of the process does: a write that was not acknowledged may or may not have happened.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::objects::Objects;
use super::{Durability, Error};

/// The most clients that are served at once. Further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// The pause after a failure to accept: a process without free file descriptors fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl S3Server {
    /// Serves the buckets in `folder`, an existing folder that nothing else uses, to requests signed with these keys.
    ///
    /// The server has no buckets at first (`PUT /bucket` makes one), accepts any region, and wants path-style
    /// addresses.
    pub async fn start(
        folder: &Path,
        access_key: &str,
        secret_key: &str,
        durability: Durability,
    ) -> Result<Self, Error> {
        let folder = folder.canonicalize().map_err(Error::io("find", folder))?;
        let mut service = S3ServiceBuilder::new(Objects::open(&folder, durability)?);
        service.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let bind = |source| Error::Io { action: "bind a loopback port for", path: folder.clone(), source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        tracing::info!(%address, folder = %folder.display(), "embedded s3 is up");
        Ok(Self { address, serving: tokio::spawn(serve(listener, service.build())) })
    }

    /// Returns the address and the port, which speak plain HTTP.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Accepts for ever. The connections belong to this future, and end with it.
async fn serve(listener: TcpListener, service: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => { connections.spawn(converse(stream, service.clone())); }
                Err(error) => {
                    tracing::warn!(%error, "embedded s3 cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream, service: S3Service) {
    // Answers are small and come in pieces; held back to be merged, each would cost 40 ms. If the option cannot be set,
    // answers are only slower.
    let _ = stream.set_nodelay(true);
    // A client that hangs up in the middle knows that it did.
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "embedded s3 lost a connection");
    }
}
