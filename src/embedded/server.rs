//! The process of an embedded Postgres: started, awaited, stopped.
//!
//! Promises that a server ends with the value that holds it. If the process dies in the middle, the keeper's signal
//! ends the server.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::home::{Home, PORT, one_line};
use super::programs::Programs;
use super::{Durability, Error, keeper};

const PROGRAM: &str = "postgres";
const START_SECONDS_MAX: u64 = 60;
const PREDECESSOR_WAIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
const LOG_TAIL_BYTES: u64 = 2000;

/// The signals that end a server, ever less gentle, and the seconds that each is given: the server ends after its work
/// is on the disk, at once, or without a say.
const STOPS: [(Signal, u64); 3] = [(Signal::SIGINT, 30), (Signal::SIGQUIT, 10), (Signal::SIGKILL, 10)];

#[derive(Debug)]
pub(super) struct Server {
    process: Child,
    durability: Durability,
}

impl Server {
    /// Starts the server of a home and waits until it accepts connections. `settings` win over the usual ones.
    pub(super) fn start(
        home: &Home,
        programs: &Programs,
        durability: Durability,
        settings: &[String],
    ) -> Result<Self, Error> {
        await_predecessor(home);
        let log = File::options().create(true).append(true).open(&home.log).map_err(Error::io("open", &home.log))?;
        let log_start = log.metadata().map_err(Error::io("read", &home.log))?.len();
        let postgres = programs.folder.join(PROGRAM);
        let mut command = home.command(&postgres);
        command.arg("-D").arg(&home.data).arg("-k").arg(&home.socket);
        command.args(usual_settings(durability).iter().chain(settings).flat_map(|setting| ["-c", setting]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SIGQUIT ends the server's children with it; SIGKILL would leave them to notice by themselves.
        let process = keeper::spawn_signalled(command, Signal::SIGQUIT).map_err(Error::io("run", &postgres))?;
        let mut server = Self { process, durability };
        server.await_ready(home, log_start)?;
        Ok(server)
    }

    fn await_ready(&mut self, home: &Home, log_start: u64) -> Result<(), Error> {
        let limit = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while !is_ready(home, self.process.id()) {
            if self.is_gone() {
                return Err(Error::Failed { program: PROGRAM, output: log_tail(home, log_start) });
            }
            if Instant::now() > limit {
                let output = log_tail(home, log_start);
                return Err(Error::TooSlow { program: PROGRAM, seconds: START_SECONDS_MAX, output });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Ends the server and waits until it is gone: in good order for `Full`, as a crash would for `None`. Once gone,
    /// does nothing.
    pub(super) fn stop(&mut self, durability: Durability) {
        let stops = match durability {
            Durability::Full => &STOPS[..],
            Durability::None => &STOPS[1..],
        };
        for (signal, seconds) in stops {
            if self.is_gone() {
                return;
            }
            // A server that cannot be signalled is gone, or is found below to be still there.
            let _ = send(self.process.id(), *signal);
            let limit = Instant::now() + Duration::from_secs(*seconds);
            while !self.is_gone() && Instant::now() < limit {
                thread::sleep(POLL);
            }
        }
        if !self.is_gone() {
            tracing::warn!(process = self.process.id(), "embedded postgres cannot be stopped");
        }
    }

    /// Returns whether the process is gone. A process whose state cannot be asked is not our child any more.
    fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(self.durability);
    }
}

/// Returns the settings that differ from the defaults of Postgres, as `name=value`.
fn usual_settings(durability: Durability) -> Vec<String> {
    let durable = match durability {
        Durability::Full => "on",
        Durability::None => "off",
    };
    let durable = ["fsync", "synchronous_commit", "full_page_writes"].map(|name| format!("{name}={durable}"));
    let fixed = [
        "listen_addresses=",
        "max_connections=200",
        "shared_buffers=256MB",
        "max_wal_size=2GB",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_checkpoints=off",
        // Errors of statements reach the client that sent them, and may quote values: the log is for what the server
        // says of itself.
        "log_min_messages=log",
        "log_min_error_statement=panic",
    ];
    durable.into_iter().chain(fixed.map(str::to_owned)).chain([format!("port={PORT}")]).collect()
}

/// Lets the server of a parent that was killed a moment ago finish, as it would refuse a second server beside it. A
/// process that is alive after the wait is a stranger with a reused id, or a server that the new one will name in its
/// log.
fn await_predecessor(home: &Home) {
    let predecessor = pid_file_lines(home).and_then(|lines| lines.first()?.parse().ok());
    let limit = Instant::now() + PREDECESSOR_WAIT;
    while predecessor.is_some_and(is_alive) && Instant::now() < limit {
        thread::sleep(POLL);
    }
}

/// Returns whether the server says that it is ready. The eighth line of postmaster.pid is its word, for which pg_ctl
/// waits too; the first line tells which process has written it.
fn is_ready(home: &Home, process: u32) -> bool {
    pid_file_lines(home).is_some_and(|lines| {
        lines.first().is_some_and(|line| line.parse() == Ok(process))
            && lines.get(7).is_some_and(|line| line == "ready")
    })
}

fn pid_file_lines(home: &Home) -> Option<Vec<String>> {
    let text = fs::read_to_string(home.data.join("postmaster.pid")).ok()?;
    Some(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// Returns the end of what the server has logged since `log_start`.
fn log_tail(home: &Home, log_start: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut log = File::open(&home.log)?;
        let start = log_start.max(log.metadata()?.len().saturating_sub(LOG_TAIL_BYTES));
        log.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        log.read_to_end(&mut tail)?;
        Ok(tail)
    };
    read().map_or_else(|error| format!("its log cannot be read: {error}"), |tail| one_line(&tail))
}

fn is_alive(process: u32) -> bool {
    matches!(send(process, None), Ok(()) | Err(Errno::EPERM))
}

/// Sends a signal; `None` only asks whether the process is there.
fn send(process: u32, signal: impl Into<Option<Signal>>) -> nix::Result<()> {
    // Zero and below would mean whole groups.
    let process = i32::try_from(process).ok().filter(|process| *process > 0).ok_or(Errno::ESRCH)?;
    kill(Pid::from_raw(process), signal)
}
