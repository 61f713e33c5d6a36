//! The way in from the network. A connection holds a place, and there are so many places and no more: a client that
//! comes when all are taken waits until one is free, and is not refused. A client that says nothing, or stops in the
//! middle of something, is let go, so that a place is never held for nothing.
//!
//! A process without free file descriptors accepts nobody for a moment, and serves whoever is there.

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

/// The pause between two attempts to accept somebody while the process cannot.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The interval between two lines of the log that say the same.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

pub struct Door {
    /// The name of the door in metrics and logs.
    name: &'static str,
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Patience,
    /// Changes when somebody waits for a place.
    crowded: watch::Sender<()>,
    /// When the log last said what is wrong.
    said_at: Option<Instant>,
}

/// One of the places of a door, until it is dropped.
pub struct Place {
    open: metrics::Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Door {
    pub fn new(name: &'static str, listener: TcpListener, places: usize, patience: Patience) -> Door {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Door { name, listener, places, patience, crowded: watch::Sender::new(()), said_at: None }
    }

    /// Changes when somebody waits for a place from now on.
    pub fn crowded(&self) -> watch::Receiver<()> {
        self.crowded.subscribe()
    }

    /// The next one who has come, and has a place.
    pub async fn next(&mut self) -> Visitor {
        let stream = self.accept().await;
        let place = self.place().await;
        // Answers are written whole: nothing is to be waited for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection that has ended already");
        }
        Visitor::new(stream, place, self.patience)
    }

    /// Everyone who comes.
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
                self.say(|door| tracing::warn!(door, "as many are connected as may be: others wait"));
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

/// Whether the error is about the connection that was to be accepted: the next one may be well.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
