//! Reads ahead, and reads again what is to be sent once more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::database::groups::progress::Refusal;
use crate::event::Filter;
use crate::store::log::read::Reader;
use crate::store::subscribe::courier::Courier;
use crate::store::subscribe::subscriber::Subscriber;
use crate::store::{Error, Page, PageSize, Query};

pub const READ_EVENTS_MIN: i64 = 4;
const READ_EVENTS_MAX: i64 = 256;
const READ_BYTES_MAX: i64 = 1024 * 1024;
/// The bytes of a read if there is no memory to read more ahead.
const READ_BYTES_MIN: i64 = 64 * 1024;
const READ_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest delay, because an object that is refused or damaged mostly stays so for longer.
pub const READ_RETRY_DELAY_MAX: Duration = Duration::from_secs(5 * 60);

/// A read that is under way: its first position, and the most events, as they were when it began. It runs in a task of
/// its own, so it gives back what it holds also while its courier waits for something that others hold.
pub struct Reading {
    from: i64,
    limit: i64,
    page: AbortOnDropHandle<Result<Page, Error>>,
}

impl Reading {
    /// Returns the page once the read has come to its end.
    pub async fn page(&mut self) -> Result<Page, Error> {
        (&mut self.page).await.unwrap_or_else(|error| Err(given_up(&error)))
    }
}

impl Courier {
    /// Begins to read the next events, if there is room for them.
    pub fn read_ahead(&mut self, subscribers: &[Arc<Subscriber>]) {
        let now = Instant::now();
        // Other streams go on while one of them takes long.
        let is_free = self.turn.group.is_parallel && subscribers.iter().any(|subscriber| self.has_room(subscriber));
        let is_put_off = self.is_trimmed && !self.window.is_empty() && !is_free;
        if is_put_off || self.reading.is_some() || self.read_retry_at.is_some_and(|at| at > now) {
            return;
        }
        if self.wake.published.swap(false, Ordering::AcqRel) {
            self.is_at_end = false;
        }
        let (from, limit) = self.window.wants(self.read_limit);
        if self.is_at_end || limit == 0 || self.window.ahead() as i64 > self.read_limit / 2 {
            return;
        }
        let (store, log) = (Arc::clone(&self.store), self.log.clone());
        self.ahead = self.ahead.take().or_else(|| store.memory.take_ahead(READ_BYTES_MAX));
        let size = PageSize::Cut(if self.ahead.is_some() { READ_BYTES_MAX } else { READ_BYTES_MIN });
        let read = async move {
            let query = Query { filter: Filter::All, from, skip: 0, limit };
            Ok(store.read_as(Reader::InTurn(&store.subscriptions.reads), &log, &query, size).await?.0)
        };
        self.reading = Some(Reading { from, limit, page: AbortOnDropHandle::new(tokio::spawn(read)) });
    }

    pub fn has_read(&mut self, page: Result<Page, Error>) {
        // The courier may have room for other events now than it asked for.
        let Some(Reading { from, limit, .. }) = self.reading.take() else { return };
        if self.turn.group.is_parallel {
            self.is_trimmed = false;
        }
        let page = match page {
            Ok(page) => page,
            Err(error) => return self.failed_reading(error, limit),
        };
        self.failed_reads = 0;
        self.is_at_end = !page.is_cut && (page.events.len() as i64) < limit;
        let end = match page.events.last() {
            Some(last) if !self.is_at_end => last.position + 1,
            _ => page.head_position + 1,
        };
        // A backlog is read in larger steps than events that come one by one.
        self.read_limit = (self.read_limit * 2).min(READ_EVENTS_MAX);
        if page.edit_counter > self.edit_counter {
            self.window.forget_events();
        }
        self.window.fill(page.events, end.max(from));
        if page.edit_counter < self.edit_counter {
            self.window.forget_events();
        }
        self.edit_counter = self.edit_counter.max(page.edit_counter);
        self.recall_refusal();
    }

    /// Gives an event the refusal that its last owner left, once the event is here.
    fn recall_refusal(&mut self) {
        let Refusal { position, retry_number, rounds, resets } = self.refusal;
        if let Some(item) = self.window.get(position) {
            (item.retry_number, item.rounds, item.resets) = (retry_number, rounds, resets);
            self.refusal = Refusal::default();
        }
    }

    /// Handles a failed read. If several events cannot be read together, the first of them may be readable, so reads
    /// ask for a single event until that one cannot be read.
    pub fn failed_reading(&mut self, error: Error, limit: i64) {
        match error {
            Error::Unavailable(_) | Error::GaveWay(_) => {
                tracing::warn!(%error, log = %self.log, "events cannot be delivered, because they cannot be read");
            }
            _ if limit > 1 => self.read_limit = 1,
            error => {
                self.tell_unreadable(&error);
                self.failed_reads = self.failed_reads.saturating_add(1);
            }
        }
        self.read_retry_at = Some(Instant::now() + retry_delay(self.failed_reads));
    }

    pub fn tell_unreadable(&self, error: &Error) {
        let group = &self.turn.group.name;
        metrics::counter!("coldstream_events_unreadable_total").increment(1);
        tracing::error!(
            %error, log = %self.log, group, "an event cannot be delivered to a group, because it cannot be read"
        );
    }

    pub fn failed_loading(&mut self, error: &Error) {
        let delay = match error.is_of_one_object() {
            true => READ_RETRY_DELAY_MAX,
            false => READ_RETRY_DELAY,
        };
        tracing::warn!(%error, log = %self.log, "an event cannot be sent once more, because it cannot be read");
        self.wake.resends.store(true, Ordering::Release);
        self.resend_retry_at = Some(Instant::now() + delay);
    }

    pub fn may_load_resends(&self) -> bool {
        self.resend_retry_at.is_none_or(|at| at <= Instant::now())
    }

    pub fn retries_at(&self) -> impl Iterator<Item = Instant> + use<> {
        self.read_retry_at.into_iter().chain(self.resend_retry_at)
    }

    /// Loads events that are to be sent once more. An event that cannot be read keeps no other from being loaded; its
    /// error is the outcome afterwards.
    pub async fn load_resends(&mut self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (position, retry_number) in self.store.resends(&self.turn).await? {
            if self.window.get(position).is_some() {
                continue;
            }
            // The courier leaves its lines, so that nobody waits for room behind a read, which may be one from S3.
            self.lines.clear();
            match self.store.event_at(&self.log, position).await {
                Ok(Some(event)) => self.window.resend(event, retry_number),
                Ok(None) => {}
                Err(error) if error.is_of_one_object() => outcome = Err(error),
                Err(error) => return Err(error),
            }
        }
        self.recall_refusal();
        outcome
    }
}

/// Returns the delay after a number of reads in a row that failed for good.
fn retry_delay(failed_reads: u32) -> Duration {
    let times = 2_u32.saturating_pow(failed_reads.saturating_sub(1));
    READ_RETRY_DELAY.saturating_mul(times).min(READ_RETRY_DELAY_MAX)
}

fn given_up(error: &JoinError) -> Error {
    Error::Unavailable(format!("a read was given up: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_asked_for_ever_more_rarely() {
        let seconds = [0, 1, 2, 3, 9, 10, u32::MAX].map(|failed_reads| retry_delay(failed_reads).as_secs());
        assert_eq!(seconds, [1, 1, 2, 4, 256, 300, 300]);
    }
}
