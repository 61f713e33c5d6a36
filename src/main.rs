//! Signals, and the exit code.

use std::process::ExitCode;

use clap::Parser;
use coldstream::command::CommandLine;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Large memory is taken from the system and given back to it. Left alone, glibc raises the limit above the parts of an
/// upload, which then break its heap into pieces: it grew with every batch. What members need is not large, and would be
/// given back and cleared again with each of them: some of it is kept.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn return_large_memory() {
    const LARGE_BYTES: libc::c_int = 1024 * 1024;
    const KEPT_BYTES: libc::c_int = 8 * 1024 * 1024;
    // SAFETY: they set numbers in the allocator, before any other thread runs.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn return_large_memory() {}

fn main() -> ExitCode {
    return_large_memory();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    let command_line = CommandLine::parse();
    let shutdown = CancellationToken::new();
    tokio::spawn(on_signal(shutdown.clone()));
    match command_line.run(shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coldstream: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The first signal asks for an orderly end; a second one does not wait for it.
async fn on_signal(shutdown: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let mut next = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
    next().await;
    shutdown.cancel();
    next().await;
    std::process::exit(130);
}
