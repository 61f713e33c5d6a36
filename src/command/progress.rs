use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The time between two lines of the log where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The progress of long work: a line that changes on a terminal, lines of the log elsewhere.
pub struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    events: u64,
    started: Instant,
    logged: Instant,
}

impl Progress {
    pub fn start(what: &'static str) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} {human_pos} events ({per_sec})");
            let bar = ProgressBar::new_spinner().with_message(what);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Progress { what, bar, events: 0, started: Instant::now(), logged: Instant::now() }
    }

    pub fn set(&mut self, events: u64) {
        self.events = events;
        if let Some(bar) = &self.bar {
            bar.set_position(events);
        } else if self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            tracing::info!(events, "{}", self.what);
        }
    }

    /// Removes the line, and returns the seconds that the work took.
    pub fn finish(self) -> f64 {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed().as_secs_f64()
    }
}
