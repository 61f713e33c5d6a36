//! Processes that are killed at a request.

use super::program::Running;
use super::proxy::{Fate, Gate, Proxy};
use super::{Program, World};

/// The moment of a request at which a process is killed.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    /// The request has not arrived.
    Asking,
    /// The request was fulfilled, and the process does not know.
    Answered,
}

impl Moment {
    /// Holds request number `k` from now on, or its reply, at a gate.
    fn hold(self, proxy: &Proxy, k: usize) -> Gate {
        let gate = Gate::new();
        let (held, mut count) = (gate.clone(), 0);
        proxy.script(move |_| {
            count += 1;
            match self {
                _ if count != k => Fate::Pass,
                Moment::Asking => Fate::Hold(held.clone()),
                Moment::Answered => Fate::HoldReply(held.clone()),
            }
        });
        gate
    }
}

/// Kills a command at its request number `k`, and runs it again to its end. Returns false if the first run ended
/// before.
pub async fn run_twice(world: &World, (command, batch_size): (&str, usize), moment: Moment, k: usize) -> bool {
    let program = Program::new(world, batch_size as u64).set("STREAMS_ARCHIVE_LEASE_SECONDS", 1);
    let gate = moment.hold(&world.proxy, k);
    let is_reached = kill_at(&gate, program.start(&[command]), &format!("{moment:?} {k}")).await;
    world.proxy.heal();
    program.run(&[command]).await.succeeded();
    is_reached
}

/// Kills a process once it arrives at a gate. Returns false if the process came to a good end before.
pub async fn kill_at(gate: &Gate, mut dying: Running, case: &str) -> bool {
    let is_reached = tokio::select! {
        () = gate.arrival() => true,
        () = dying.silence() => false,
    };
    let ended = dying.kill().await;
    assert_eq!(ended.code, if is_reached { None } else { Some(0) }, "{case}: {ended:?}");
    is_reached
}
