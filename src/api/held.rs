//! The memory of pages that are on their way. It is given back once the last byte of the page is sent, or its client is
//! gone: a slow client keeps the memory of the bytes that it has not read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::store::Held;

struct HeldBytes {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns the same bytes, which hold the memory until they are dropped.
pub fn hold(bytes: Bytes, held: Arc<Held>) -> Bytes {
    Bytes::from_owner(HeldBytes { bytes, _held: held })
}

struct HeldBody {
    body: Body,
    held: Arc<Held>,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| frame.map_data(|bytes| hold(bytes, Arc::clone(&self.held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Moves the memory that a handler has put beside its answer into the body of the answer.
pub async fn hold_body(mut response: Response) -> Response {
    match response.extensions_mut().remove::<Arc<Held>>() {
        Some(held) => response.map(|body| Body::new(HeldBody { body, held })),
        None => response,
    }
}
