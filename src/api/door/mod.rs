//! The way in from the network. Each connection holds a place, and the number of places is fixed: a client that comes
//! when all are taken waits until one is free, and is not refused. A client that says nothing, or stops in the middle
//! of a request or of an answer, is let go, so that no place is held for nothing.
//!
//! A process without free file descriptors accepts no connection for a moment, and serves those that it has.

mod pace;
mod visitor;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

pub use pace::{Late, Paced};
pub use visitor::{Patience, Visitor};

/// The pause between two attempts to accept a connection while the process cannot.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The interval between two lines of the log that say the same.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

pub struct Door {
    /// The name of the door in metrics and logs.
    name: &'static str,
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Patience,
    /// A signal that changes when a client waits for a place.
    crowded: watch::Sender<()>,
    /// The time at which the door last wrote to the log.
    said_at: Option<Instant>,
}

/// A place of a door, which is free again once this is dropped.
pub struct Place {
    open: metrics::Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Door {
    pub fn new(name: &'static str, listener: TcpListener, places: usize, patience: Patience) -> Door {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Door { name, listener, places, patience, crowded: watch::Sender::new(()), said_at: None }
    }

    /// Returns a signal that changes when a client waits for a place from now on.
    pub fn crowded(&self) -> watch::Receiver<()> {
        self.crowded.subscribe()
    }

    /// Returns the next client that has come and has a place.
    pub async fn next(&mut self) -> Visitor {
        let stream = self.accept().await;
        let place = self.place().await;
        // Answers are written whole: the system has no further bytes to wait for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection that has ended already");
        }
        Visitor::new(stream, place, self.patience)
    }

    /// Returns all clients that come, as a stream.
    pub fn visitors(self) -> impl Stream<Item = io::Result<Visitor>> {
        futures::stream::unfold(self, |mut door| async move { Some((Ok(door.next().await), door)) })
    }

    async fn accept(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    self.say(|door| tracing::warn!(%error, door, "nobody can be let in for a moment"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn place(&mut self) -> Place {
        let places = Arc::clone(&self.places);
        let permit = match Arc::clone(&places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                metrics::counter!("coldstream_connections_waited_total", "door" => self.name).increment(1);
                self.say(|door| tracing::warn!(door, "as many clients are connected as may be: others wait"));
                self.crowded.send_replace(());
                places.acquire_owned().await.expect("it is never closed")
            }
        };
        let open = metrics::gauge!("coldstream_connections", "door" => self.name);
        open.increment(1);
        Place { open, _permit: permit }
    }

    fn say(&mut self, line: impl FnOnce(&str)) {
        if self.said_at.is_none_or(|said_at| said_at.elapsed() >= REPEAT_INTERVAL) {
            self.said_at = Some(Instant::now());
            line(self.name);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.decrement(1);
    }
}

/// Returns whether the error is about the connection that was to be accepted, so that the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
