//! Breaks for work for which nobody waits, so that publishers and readers have room. Postgres does what it is asked as
//! fast as it can, so such work asks for a little at a time.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest work that is followed by a break. Publishers hardly notice a few milliseconds of it.
const WORK_MIN: Duration = Duration::from_millis(4);
/// A break takes this many times as long as the work before it.
const BREAK_FACTOR: u32 = 3;

/// The pace of some work: hurried if somebody waits for its end, leisurely if nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Hurried,
    Leisurely,
}

/// The breaks of one piece of work.
pub struct Breaks {
    pace: Pace,
    working_since: Instant,
}

impl Breaks {
    pub fn new(pace: Pace) -> Breaks {
        Breaks { pace, working_since: Instant::now() }
    }

    /// Takes a break if one is due.
    pub async fn take(&mut self) {
        if self.pace == Pace::Hurried {
            return;
        }
        let worked = self.working_since.elapsed();
        if worked >= WORK_MIN {
            tokio::time::sleep(worked * BREAK_FACTOR).await;
            self.working_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leisurely_work_rests_for_longer_than_it_takes() {
        let started = Instant::now();
        let mut breaks = Breaks::new(Pace::Leisurely);
        std::thread::sleep(WORK_MIN);
        breaks.take().await;
        assert!(started.elapsed() >= WORK_MIN * (1 + BREAK_FACTOR));
    }
}
