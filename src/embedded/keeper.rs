//! Children that die with this process, however it dies.
//!
//! Linux sends the signal asked for with `PR_SET_PDEATHSIG` when the *thread* that started the child ends, not when its
//! process does, and the threads of test harnesses and runtimes end early. So one thread, the keeper, starts them all,
//! and lives as long as the process.
//!
//! If this process dies, by SIGKILL even, the kernel signals each child. Systems other than Linux have no such
//! signal: a child there outlives a parent that had no time to stop it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::sys::signal::Signal;
use parking_lot::Mutex;

/// A command to start, and the channel for the result.
type Order = (Command, Sender<io::Result<Child>>);

/// The channel to the keeper, once there is one.
static KEEPER: Mutex<Option<Sender<Order>>> = Mutex::new(None);

/// Starts `command` so that it is killed when this process ends.
pub fn spawn(command: Command) -> io::Result<Child> {
    spawn_signalled(command, Signal::SIGKILL)
}

/// Starts `command` so that it receives `signal` when this process ends, for servers that have children of their own to
/// take along.
///
/// The child leads a process group: Ctrl-C in a terminal reaches this process only, which may still need the child to
/// stop in good order.
pub fn spawn_signalled(mut command: Command, signal: Signal) -> io::Result<Child> {
    command.process_group(0);
    die_with_parent(&mut command, signal);
    let (answer, answered) = channel();
    order((command, answer))?;
    answered.recv().map_err(|_| io::Error::other("the keeper thread is gone"))?
}

fn order(order: Order) -> io::Result<()> {
    // A panic cannot leave the Option half written, so a poisoned lock is as good as any.
    let mut keeper = KEEPER.lock();
    if keeper.is_none() {
        let (orders, received) = channel();
        thread::Builder::new().name("keeper".to_owned()).spawn(move || keep(&received))?;
        *keeper = Some(orders);
    }
    let sent = keeper.as_ref().is_some_and(|orders| orders.send(order).is_ok());
    if sent { Ok(()) } else { Err(io::Error::other("the keeper thread is gone")) }
}

/// Starts the commands. The thread never ends, as the sender is static: its end would be the end of every child.
fn keep(orders: &Receiver<Order>) {
    for (mut command, answer) in orders {
        let child = command.spawn();
        // The caller waits for the answer without a limit, so that it is always received.
        let _ = answer.send(child);
    }
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = std::process::id();
    let ask = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
        // The parent may have died before the signal was asked for, so that nothing would ever send it.
        if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(parent) {
            return Err(nix::errno::Errno::ESRCH.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only calls prctl and getppid, which are async-signal-safe, and
    // allocates nothing. It runs after std has changed the user id, which matters as the kernel forgets the signal
    // asked for when the user changes.
    unsafe { command.pre_exec(ask) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command, _signal: Signal) {}
