//! The least pace of a body: one that comes a byte at a time is as good as none, and does not hold its reader for ever.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, TryStreamExt, unfold};
use tokio::time::{Instant, timeout};

use crate::bucket::Error;

/// The least pace at which a body has to come. Only the time spent waiting counts: the reader may be slower.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The time to wait beyond the pace, before the first byte or anywhere on the way.
    pub patience: Duration,
    pub bytes_per_second_min: f64,
}

impl Pace {
    /// The longest time to wait in all for `bytes` bytes and the next ones.
    fn allowance(self, bytes: u64) -> Duration {
        self.patience + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_min)
    }

    /// Passes the body on as it comes. If it comes too slowly or breaks off, an error names it.
    pub fn keep(
        self,
        what: String,
        body: impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + Unpin + 'static,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        let rest = Some((body, Duration::ZERO, 0));
        unfold((rest, what), move |(rest, what)| async move {
            let (mut body, waited, bytes) = rest?;
            let (started, allowed) = (Instant::now(), self.allowance(bytes).saturating_sub(waited));
            let broken = |why: &dyn std::fmt::Display| Error::Unavailable { what: format!("{what} broke off: {why}") };
            match timeout(allowed, body.try_next()).await {
                Ok(Ok(Some(chunk))) => {
                    let rest = Some((body, waited + started.elapsed(), bytes + chunk.len() as u64));
                    Some((Ok(chunk), (rest, what)))
                }
                Ok(Ok(None)) => None,
                Ok(Err(error)) => Some((Err(broken(&error)), (None, what))),
                Err(_) => Some((Err(broken(&format!("{bytes} bytes came, too slowly"))), (None, what))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    const PACE: Pace = Pace { patience: Duration::from_millis(200), bytes_per_second_min: 1_000.0 };

    fn body(chunks: usize) -> impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + Unpin {
        futures::stream::repeat_with(|| Ok(Bytes::from_static(&[0; 400]))).take(chunks)
    }

    #[tokio::test]
    async fn a_body_that_comes_is_read_to_its_end() {
        let chunks: Vec<Bytes> = PACE.keep("it".into(), body(3)).try_collect().await.unwrap();
        assert_eq!(chunks.concat().len(), 1_200);
    }

    #[tokio::test]
    async fn a_body_that_trickles_is_given_up() {
        let trickle = body(1).chain(futures::stream::pending());
        let chunks: Vec<_> = PACE.keep("it".into(), trickle).collect().await;
        let [Ok(first), Err(Error::Unavailable { what })] = chunks.as_slice() else { panic!("{chunks:?}") };
        assert_eq!(first.len(), 400);
        assert_eq!(what, "it broke off: 400 bytes came, too slowly");
        assert_eq!(PACE.allowance(1_000), Duration::from_millis(1_200));
    }
}
