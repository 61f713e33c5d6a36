//! Work for which nobody waits leaves room for publishers and readers: Postgres does what it is asked as fast as it can,
//! so it is asked a little at a time.

use std::time::Duration;

use tokio::time::Instant;

/// Of work between two breaks. Publishers hardly notice so much.
const WORK_MIN: Duration = Duration::from_millis(4);
/// How many times as long a break takes.
const BREAK_FACTOR: u32 = 3;

/// Whether somebody waits for the end of some work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    Hurried,
    Leisurely,
}

/// The breaks of one piece of work.
pub struct Breaks {
    haste: Haste,
    working_since: Instant,
}

impl Breaks {
    pub fn new(haste: Haste) -> Breaks {
        Breaks { haste, working_since: Instant::now() }
    }

    /// Takes one if it is time for it.
    pub async fn take(&mut self) {
        if self.haste == Haste::Hurried {
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
        let mut breaks = Breaks::new(Haste::Leisurely);
        std::thread::sleep(WORK_MIN);
        breaks.take().await;
        assert!(started.elapsed() >= WORK_MIN * (1 + BREAK_FACTOR));
    }
}
