//! One connection, its place, and the time for which it may keep the service waiting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::api::door::Place;

/// The bytes that HTTP/2 begins with, which are enough to tell every other protocol from it.
const OPENING_BYTES: usize = 24;

/// The limits for how long a visitor may do nothing.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The limit until the protocol is known.
    pub opening: Duration,
    /// The limit between two bytes from then on; `None` where the protocol sees to it by itself.
    pub silence: Option<Duration>,
    /// The limit for taking the next byte of what is being sent; `None` likewise.
    pub stall: Option<Duration>,
}

pub struct Visitor {
    stream: TcpStream,
    /// The number of bytes that are still missing from the opening.
    opening_bytes: usize,
    reading: Wait,
    writing: Wait,
    _place: Place,
}

/// A wait for the client, and its deadline.
pub(super) struct Wait {
    limit: Option<Duration>,
    deadline: Option<Instant>,
    /// The timer, which is armed late, and moved only when it rings: waits are many, and most are short.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Visitor {
    pub fn new(stream: TcpStream, place: Place, Patience { opening, silence, stall }: Patience) -> Visitor {
        let mut reading = Wait::new(silence);
        reading.end_at(Instant::now() + opening);
        Visitor { stream, opening_bytes: OPENING_BYTES, reading, writing: Wait::new(stall), _place: place }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn wrote<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing.over();
            return outcome;
        }
        ready!(self.writing.poll_late(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Wait {
    pub fn new(limit: Option<Duration>) -> Wait {
        Wait { limit, deadline: None, alarm: None }
    }

    pub fn end_at(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Ends the wait, because the client has gone on.
    pub fn over(&mut self) {
        self.deadline = None;
    }

    /// Is ready when the wait has lasted too long. The wait begins with the first call.
    pub fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = match (self.deadline, self.limit) {
            (Some(deadline), _) => deadline,
            (None, Some(limit)) => *self.deadline.insert(Instant::now() + limit),
            (None, None) => return Poll::Pending,
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        while alarm.as_mut().poll(context).is_ready() {
            if alarm.deadline() >= deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl AsyncRead for Visitor {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let visitor = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut visitor.stream).poll_read(context, buffer) {
            Poll::Ready(outcome) => {
                visitor.opening_bytes = visitor.opening_bytes.saturating_sub(buffer.filled().len() - before);
                if visitor.opening_bytes == 0 {
                    visitor.reading.over();
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                ready!(visitor.reading.poll_late(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let visitor = self.get_mut();
        let outcome = Pin::new(&mut visitor.stream).poll_write(context, bytes);
        visitor.wrote(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let visitor = self.get_mut();
        let outcome = Pin::new(&mut visitor.stream).poll_write_vectored(context, slices);
        visitor.wrote(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
