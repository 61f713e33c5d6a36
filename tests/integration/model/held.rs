//! Jobs that stop at one of their requests, so that other things happen meanwhile.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coldstream::store::{Error, Store};
use tokio::task::JoinHandle;

use super::operations::{Fault, Job, Stop};
use crate::support::{Fate, Gate, Kind, Proxy};

/// The longest time that a job waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(store: &Store, job: Job) -> Result<(), Error> {
    match job {
        Job::Archive => store.archive(|_, _| {}).await.map(drop),
        Job::Rewrite => store.rewrite().await.map(drop),
        Job::Sweep => store.sweep().await.map(drop),
    }
}

/// Scripts the fate of the n-th request from now on.
pub fn meet(proxy: &Proxy, request: usize, fault: Fault) {
    let mut seen = 0;
    proxy.script(move |met| {
        seen += 1;
        match fault {
            _ if seen != request => Fate::Pass,
            Fault::LoseRequest => Fate::LoseRequest,
            Fault::LoseReply => Fate::LoseReply,
            Fault::Busy => Fate::Answer(503, "<Error><Code>SlowDown</Code></Error>"),
            Fault::Cut(bytes) => Fate::CutBody(bytes as usize),
            Fault::Lie if met.kind == Kind::CompleteUpload => Fate::Answer(200, "<CompleteMultipartUploadResult/>"),
            // The lie waits for the next request that completes an upload.
            Fault::Lie => {
                seen -= 1;
                Fate::Pass
            }
        }
    });
}

/// A job that waits at a gate, or died there with its request on the way.
pub struct Held {
    gate: Gate,
    kind: Arc<Mutex<Option<Kind>>>,
    run: Option<JoinHandle<Result<(), Error>>>,
}

impl Held {
    /// Starts a job; returns once it stops, or has ended before.
    pub async fn start(store: Arc<Store>, job: Job, proxy: &Proxy, stop: Stop) -> Option<Held> {
        let (gate, kind) = hold(proxy, stop);
        let run = tokio::spawn(async move { run(&store, job).await });
        Held { gate, kind, run: Some(run) }.until_stopped().await
    }

    /// Lets the job go on to its next stop.
    pub async fn advance(self, proxy: &Proxy, stop: Stop) -> Option<Held> {
        let (gate, kind) = hold(proxy, stop);
        self.gate.open();
        match self.run {
            Some(run) => Held { gate, kind, run: Some(run) }.until_stopped().await,
            None => None,
        }
    }

    async fn until_stopped(mut self) -> Option<Held> {
        let run = self.run.as_mut().expect("the job has just been started");
        let is_stopped = tokio::select! {
            () = self.gate.arrival() => true,
            ended = tokio::time::timeout(PATIENCE, run) => {
                let _ = ended.expect("a job takes too long").expect("a job does not panic");
                false
            }
        };
        is_stopped.then_some(self)
    }

    pub async fn finish(self, is_lost: bool) {
        if is_lost {
            self.gate.lose()
        } else {
            self.gate.open()
        }
        if let Some(run) = self.run {
            // The job may fail: its lease may be lost, or what it was about to read.
            let _ = tokio::time::timeout(PATIENCE, run).await.expect("a job takes too long").expect("no panic");
        }
    }

    /// Kills the process of the job; a request that it had sent may still arrive.
    pub async fn kill(mut self) -> Option<Held> {
        let run = self.run.take()?;
        run.abort();
        let _ = run.await;
        let kind = *self.kind.lock().expect("nobody panics while it is locked");
        if kind == Some(Kind::StartUpload) {
            // Nobody would know of an upload that begins after its writer's death, and S3 has no way to forbid it.
            self.gate.lose();
            return None;
        }
        Some(self)
    }
}

fn hold(proxy: &Proxy, Stop { request, is_answer }: Stop) -> (Gate, Arc<Mutex<Option<Kind>>>) {
    let (gate, kind) = (Gate::new(), Arc::new(Mutex::new(None)));
    let (held, held_kind, mut seen) = (gate.clone(), Arc::clone(&kind), 0);
    proxy.script(move |met| {
        seen += 1;
        if seen != request {
            return Fate::Pass;
        }
        *held_kind.lock().expect("nobody panics while it is locked") = Some(met.kind);
        if is_answer { Fate::HoldReply(held.clone()) } else { Fate::Hold(held.clone()) }
    });
    (gate, kind)
}
