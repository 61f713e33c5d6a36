use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt};

use crate::event::{Event, Log};
use crate::store::log::read::Reader;
use crate::store::log::read::memory::Held;
use crate::store::{Error, PageSize, Query, Store};

/// The most events of one window. Three windows are in memory: one is passed on, one waits, one is being read.
const WINDOW_EVENTS: i64 = 8_000;
const WINDOW_BYTES: i64 = 8 * 1024 * 1024;
/// The memory for those windows, and for the bytes that are made from the one that is passed on.
const AHEAD_BYTES: i64 = 4 * WINDOW_BYTES;
/// The bytes of a window if there is no memory for a larger one, so that every replay can go on.
const SMALL_WINDOW_BYTES: i64 = 256 * 1024;

impl Store {
    /// Streams all events that match from a position on, up to the head of the log at the moment when it is reached,
    /// and at most `query.limit`. Holds no view between windows, so a slow reader does not keep Postgres from
    /// vacuuming. Waits for no memory: windows are smaller if there is none.
    pub fn replay(
        self: &Arc<Self>,
        log: Log,
        query: Query,
    ) -> impl Stream<Item = Result<Vec<Event>, Error>> + Send + use<> {
        let store = Arc::clone(self);
        let held = self.memory.take_ahead(AHEAD_BYTES);
        let window_bytes = if held.is_some() { WINDOW_BYTES } else { SMALL_WINDOW_BYTES };
        let windows = stream::unfold(Some(query), move |query| {
            let (store, log) = (Arc::clone(&store), log.clone());
            async move {
                let query = query?;
                let window = Query { limit: query.limit.min(WINDOW_EVENTS), ..query.clone() };
                match store.read_as(Reader::Replay, &log, &window, PageSize::Cut(window_bytes)).await {
                    Err(error) => Some((Err(error), None)),
                    Ok((page, _)) => {
                        let next = page.events.last().map(|last| Query {
                            from: last.position + 1,
                            skip: 0,
                            limit: query.limit - page.events.len() as i64,
                            filter: query.filter,
                        });
                        let is_full = page.is_cut || page.events.len() as i64 == window.limit;
                        Some((Ok(page.events), next.filter(|next| is_full && next.limit > 0)))
                    }
                }
            }
        });
        read_ahead(windows, held)
    }
}

/// Reads the next item while the one before is passed on. Dropping the stream gives the held memory back.
fn read_ahead<T: Send + 'static>(
    items: impl Stream<Item = T> + Send + 'static,
    held: Option<Held>,
) -> impl Stream<Item = T> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut items = std::pin::pin!(items);
        while let Some(item) = items.next().await {
            // The reader has dropped the stream.
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    stream::unfold((receiver, held), |(mut receiver, held)| async move {
        let item = receiver.recv().await?;
        Some((item, (receiver, held)))
    })
}
