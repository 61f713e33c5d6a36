//! One subscriber of a group in normal mode: it gets everything once or more, each log in order, and no event as it was
//! before the last answer.

use std::sync::Arc;
use std::time::Duration;

use coldstream::store::{Deliveries, Delivery, Store, Subscription};

use crate::support::subscribing;

use super::expected::ExpectedLog;
use super::operations::Answer;

pub const GROUP: &str = "group";
/// The longest time that a due event takes to come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Consumer {
    pub replica: usize,
    subscription: Subscription,
    deliveries: Deliveries,
    /// The step at which each log was answered last: the next event of that log is read after the step.
    answered: Vec<usize>,
}

impl Consumer {
    pub fn start(store: &Arc<Store>, replica: usize, step: usize, logs: usize) -> Consumer {
        let (subscription, deliveries) = store.subscribe(subscribing(GROUP)).expect("the store is not closed");
        Consumer { replica, subscription, deliveries, answered: vec![step; logs] }
    }

    /// Takes one delivery, if one is due.
    pub async fn consume(&mut self, logs: &mut [ExpectedLog], answer: Answer, step: usize) {
        if logs.iter().all(|log| log.due().is_none()) {
            return;
        }
        let next = tokio::time::timeout(PATIENCE, self.deliveries.next()).await;
        let Some(Delivery::Event { log, event, .. }) = next.expect("the due event does not come") else {
            panic!("no event, but the end or another thing");
        };
        let index = logs.iter().position(|expected| expected.log == log).expect("somebody published to it");
        let expected = &mut logs[index];
        assert_eq!(Some(event.position), expected.due(), "{log}: {:?} is out of order", event.id);
        assert!(
            expected.was(&event, self.answered[index]),
            "{log}: the event never was so, or is not any more: {event:?}"
        );
        self.answered[index] = step;
        let (error, retry) = match answer {
            Answer::Handled => ("", false),
            Answer::Again => ("later", true),
            Answer::Failed => ("broken", false),
        };
        self.subscription.acked(&log, event.stream.clone(), error.into(), retry).await;
        match answer {
            Answer::Again => return,
            Answer::Handled => {}
            Answer::Failed => drop(expected.erroneous.insert(event.position)),
        }
        expected.reached = event.position;
    }
}
