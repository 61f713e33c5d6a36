//! The process: its signals and its exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use coldstream::command::{CommandLine, return_large_memory};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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
            // The exit code tells of the failure even where nobody reads the line.
            let _ = writeln!(std::io::stderr(), "coldstream: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Asks for an orderly end at the first signal, and exits at the second one without waiting for it.
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
