//! The binary as an operator runs it: a process of its own, in a working directory of its own, with an environment that
//! holds what it needs and nothing else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use coldstream::embedded::keeper;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::World;

/// The binary before it starts, with all that it is told.
pub struct Program {
    variables: BTreeMap<&'static str, String>,
    folder: TempDir,
    /// The working directory, below the folder.
    below: &'static str,
    writes_files: bool,
    /// The number of files that may be open; by default that of the test's own process.
    descriptors: Option<u64>,
}

/// A process, killed when it is dropped.
pub struct Running {
    child: Child,
    errors: UnboundedReceiver<String>,
    output: Option<JoinHandle<String>>,
    said: Vec<String>,
}

/// The output of a process that has ended, and its exit code; none if it was killed.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub output: String,
    pub errors: Vec<String>,
}

impl Program {
    /// Returns a program without a single variable.
    pub fn bare() -> Program {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        Program { variables: BTreeMap::new(), folder, below: "", writes_files: true, descriptors: None }
    }

    /// Returns a program that knows its world, archives in batches of this many events that are older than 30 days,
    /// reads nothing by itself, and does not wait for another owner of its bucket.
    pub fn new(world: &World, batch_size: u64) -> Program {
        let known =
            world.variables().into_iter().fold(Program::bare(), |program, (name, value)| program.set(name, value));
        let known = known.set("STREAMS_ARCHIVE", "true").set("STREAMS_ARCHIVE_SIZE", batch_size);
        known.set("STREAMS_SCRUB_BYTES_PER_SECOND", 0).set("S3_TAKEOVER_SECONDS", 0)
    }

    pub fn set(mut self, name: &'static str, value: impl ToString) -> Program {
        self.variables.insert(name, value.to_string());
        self
    }

    pub fn unset(mut self, name: &str) -> Program {
        self.variables.remove(name);
        self
    }

    /// Runs the program in a folder below its own.
    pub fn below(mut self, below: &'static str) -> Program {
        self.below = below;
        self
    }

    /// Keeps the program from writing any byte into any file, as where everything is read-only.
    pub fn without_files(mut self) -> Program {
        self.writes_files = false;
        self
    }

    /// Limits the files that the program may have open.
    pub fn descriptors(mut self, descriptors: u64) -> Program {
        self.descriptors = Some(descriptors);
        self
    }

    /// Returns the working directory, unless `below` was called.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Puts a file into the working directory.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, content).expect("the temporary folder can be written");
        path
    }

    pub fn start(&self, arguments: &[&str]) -> Running {
        self.spawn(arguments, Stdio::null())
    }

    /// Runs the program to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end().await
    }

    /// Runs the program to its end, with a file as its standard input.
    pub async fn run_on(&self, arguments: &[&str], input: &Path) -> Ended {
        let input = File::open(input).expect("the file is there");
        self.spawn(arguments, Stdio::from(input)).end().await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldstream"));
        command.args(arguments).env_clear().envs(&self.variables).current_dir(self.folder().join(self.below));
        let files = (!self.writes_files).then_some((Resource::RLIMIT_FSIZE, 0));
        let descriptors = self.descriptors.map(|descriptors| (Resource::RLIMIT_NOFILE, descriptors));
        for (resource, most) in files.into_iter().chain(descriptors) {
            // SAFETY: the closure makes one call between fork and exec, which is async-signal-safe.
            unsafe { command.pre_exec(move || Ok(setrlimit(resource, most, most)?)) };
        }
        command
    }

    /// Starts the program with its output going elsewhere. It is killed with this process at the latest.
    pub fn start_into(&self, arguments: &[&str], output: Stdio, log: Stdio) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        keeper::spawn(command).expect("the binary can be run")
    }

    fn spawn(&self, arguments: &[&str], input: Stdio) -> Running {
        let mut command = self.command(arguments);
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = keeper::spawn(command).expect("the binary can be run");
        let (mut stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let output = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).expect("the binary says UTF-8");
            text
        });
        let (sender, errors) = unbounded_channel();
        // A test that has heard enough still wants the pipe to be emptied.
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)))
        });
        Running { child, errors, output: Some(output), said: Vec::new() }
    }
}

impl Running {
    /// Returns the next line of standard error; none at its end.
    pub async fn line(&mut self) -> Option<String> {
        let line = self.errors.recv().await;
        self.said.extend(line.clone());
        line
    }

    /// Returns once the process has closed its standard error, as one does that ends.
    pub async fn silence(&mut self) {
        while self.line().await.is_some() {}
    }

    /// Asks for an orderly end.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn signal(&self, signal: Signal) {
        // The child was not waited for, so that its id is still its own.
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process can be signalled");
    }

    /// Returns the most memory that the process has had so far.
    pub fn peak_memory_bytes(&self) -> usize {
        self.status_bytes("VmHWM:")
    }

    /// Returns the memory that the process has now.
    pub fn memory_bytes(&self) -> usize {
        self.status_bytes("VmRSS:")
    }

    fn status_bytes(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let size = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
        size.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kB") * 1024
    }

    /// Returns the processor time that the process has used so far.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("a process");
        // The times in user mode and in the system's stand behind the name, in hundredths of a second.
        let (_, numbers) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = numbers.split(' ').skip(12).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Sets how many files the process may have open from now on, and returns how many it might have had.
    pub fn limit_descriptors(&self, descriptors: libc::rlim_t) -> libc::rlim_t {
        let id = self.child.id() as libc::pid_t;
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the call fills the structure, and is about a child that was not waited for.
        assert_eq!(unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) }, 0);
        let limit = libc::rlimit { rlim_cur: descriptors, ..before };
        // SAFETY: the call reads the structure.
        assert_eq!(unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) }, 0);
        before.rlim_cur
    }

    /// Kills the process, if it has not ended already, and returns once it is gone.
    pub async fn kill(mut self) -> Ended {
        self.child.kill().expect("the process can be killed");
        self.end().await
    }

    /// Waits until the process ends by itself.
    pub async fn end(mut self) -> Ended {
        self.silence().await;
        let output = self.output.take().expect("a process ends once").join().expect("the reader does not panic");
        let code = self.child.wait().expect("the child is ours to wait for").code();
        Ended { code, output, errors: std::mem::take(&mut self.said) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Returns the output of a process that did what it was asked for.
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.output
    }

    /// Returns the one line of a process that could not do what it was asked for.
    pub fn failed(mut self) -> String {
        // Lines that the log says by the way are no failure.
        self.errors.retain(|line| !line.contains(" INFO "));
        assert!(self.code == Some(1) && self.errors.len() == 1 && self.output.is_empty(), "{self:?}");
        self.errors.remove(0)
    }
}
