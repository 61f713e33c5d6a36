//! The body of a request, which has a deadline and a least pace.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::api::door::visitor::Wait;

/// The least bytes a second of a body. A client that sends fewer, for longer than its deadline, keeps a place for
/// nothing.
const BYTES_PER_SECOND_MIN: f64 = 4096.0;

type BoxError = Box<dyn Error + Send + Sync>;

/// The body did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("the body did not come in time")]
pub struct Late;

/// A body that may be silent for `limit` at most, and has to come with 4 KiB a second at least.
pub struct Paced<B> {
    body: B,
    limit: Duration,
    begun_at: Instant,
    received_bytes: u64,
    wait: Wait,
    /// Makes the error by which the protocol knows a late body.
    late: fn() -> BoxError,
}

impl<B> Paced<B> {
    pub fn new(body: B, limit: Duration, late: fn() -> BoxError) -> Paced<B> {
        Paced { body, limit, begun_at: Instant::now(), received_bytes: 0, wait: Wait::new(Some(limit)), late }
    }

    fn received(&mut self, bytes: usize) {
        self.received_bytes += bytes as u64;
        let pace = Duration::from_secs_f64(self.received_bytes as f64 / BYTES_PER_SECOND_MIN);
        self.wait.end_at((self.begun_at + pace).min(Instant::now()) + self.limit);
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let paced = self.get_mut();
        match Pin::new(&mut paced.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                paced.received(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => paced.wait.poll_late(context).map(|()| Some(Err((paced.late)()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
