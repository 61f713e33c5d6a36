//! `coldstream serve` as a process of its own, on ports that the system chose.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::program::{Ended, Program, Running};

pub struct Service {
    pub http: String,
    pub grpc: String,
    running: Running,
}

/// A line of the log, as far as a test wants to know it.
#[derive(Deserialize)]
struct Line {
    fields: Value,
}

impl Service {
    /// Starts a service, and returns once it serves.
    pub async fn start(program: Program) -> Service {
        let program = program.set("HTTP_ADDR", "127.0.0.1:0").set("GRPC_ADDR", "127.0.0.1:0").set("LOG_FORMAT", "json");
        let mut running = program.start(&["serve"]);
        while let Some(line) = running.line().await {
            let Ok(Line { fields }) = serde_json::from_str(&line) else { continue };
            if fields["message"] == "serving" {
                let url = |name: &str| format!("http://{}", fields[name].as_str().expect("an address"));
                return Service { http: url("http"), grpc: url("grpc"), running };
            }
        }
        panic!("the service does not serve: {:?}", running.end().await);
    }

    /// Asks for an orderly end.
    pub fn terminate(&self) {
        self.running.terminate();
    }

    /// Returns the most memory that the service has had so far.
    pub fn peak_memory_bytes(&self) -> usize {
        self.running.peak_memory_bytes()
    }

    /// Returns the memory that the service has now.
    pub fn memory_bytes(&self) -> usize {
        self.running.memory_bytes()
    }

    /// Stops the service in the middle of whatever it does.
    pub fn pause(&self) {
        self.running.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.running.signal(Signal::SIGCONT);
    }

    /// Returns once the service has logged such a message.
    pub async fn says(&mut self, message: &str) {
        while let Some(line) = self.running.line().await {
            let is_it = serde_json::from_str(&line).is_ok_and(|Line { fields }| fields["message"] == message);
            if is_it {
                return;
            }
        }
        panic!("the service does not say {message:?}");
    }

    pub fn processor_time(&self) -> Duration {
        self.running.processor_time()
    }

    pub fn limit_descriptors(&self, descriptors: libc::rlim_t) -> libc::rlim_t {
        self.running.limit_descriptors(descriptors)
    }

    /// Kills the service, and returns once it is gone.
    pub async fn kill(self) -> Ended {
        self.running.kill().await
    }

    /// Asks for an orderly end, and checks that it is one.
    pub async fn finish(self) {
        self.terminate();
        let ended = self.end().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }

    /// Waits for the end of the service.
    pub async fn end(self) -> Ended {
        self.running.end().await
    }
}
