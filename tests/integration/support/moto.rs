//! A real S3 server for the tests: moto, from PyPI, in an environment of its own under the target folder.
//!
//! The environment is made once, under a lock, by whichever test binary comes first; what is left of one that was cut
//! off is cleared. The server is one per process, on a port that the system chose, and dies with the process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use coldstream::embedded::keeper;

use super::exit;

/// Flask and its companion are what the server needs of moto's extra `server`, which brings 200 MB more.
const PACKAGES: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
const FOLDER: &str = "moto-5.2.5";
/// Of all that moto imitates, S3. Its program for everything looks through the folders of 190 services at every request.
const PROGRAM: &str = "
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
run_simple('127.0.0.1', 0, create_backend_app('s3'), threaded=True, request_handler=MotoRequestHandler)
";

static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
static SERVER: Mutex<Option<Child>> = Mutex::new(None);

/// Where the server of this process listens; started by the first who asks.
pub async fn address() -> SocketAddr {
    tokio::task::spawn_blocking(|| *ADDRESS.get_or_init(start)).await.expect("starting moto does not panic twice")
}

/// For the end of the process.
pub fn stop() {
    if let Some(mut server) = SERVER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = server.kill();
        let _ = server.wait();
    }
}

fn start() -> SocketAddr {
    exit::register();
    let mut command = installed();
    command.args(["-c", PROGRAM]);
    command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = keeper::spawn(command).expect("python3 cannot be run");
    let mut said = BufReader::new(server.stderr.take().expect("it was piped"));
    let mut lines = String::new();
    let address = loop {
        let start = lines.len();
        if said.read_line(&mut lines).expect("moto says UTF-8") == 0 {
            panic!("moto did not start: {}", lines.trim().replace('\n', " | "));
        }
        // " * Running on http://127.0.0.1:40123", perhaps in colour.
        if let Some((_, rest)) = lines[start..].split_once("Running on http://127.0.0.1:") {
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            break SocketAddr::from(([127, 0, 0, 1], port.parse().expect("a port")));
        }
    };
    // It says a line for every request, and would wait for somebody to read it.
    thread::spawn(move || said.lines().for_each(drop));
    *SERVER.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    address
}

/// The Python that has moto.
fn installed() -> Command {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent).expect("the target folder can be written");
    let lock = File::create(parent.join(format!("{FOLDER}.lock"))).expect("the target folder can be written");
    lock.lock().expect("the file system of the target folder has locks");
    let folder = parent.join(FOLDER);
    let complete = folder.join("complete");
    if !complete.exists() {
        let log = parent.join(format!("{FOLDER}.log"));
        if let Err(why) = install(&folder, &log) {
            panic!(
                "the tests need moto, an S3 server: python3 with venv or pip, and PyPI ({why}; see {})",
                log.display()
            );
        }
        File::create(&complete).expect("the target folder can be written");
    }
    python(&folder)
}

fn python(folder: &Path) -> Command {
    let own = folder.join("bin/python");
    if own.exists() {
        return Command::new(own);
    }
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", folder);
    command
}

/// Into an environment; where Python has no environments, into a plain folder.
fn install(folder: &Path, log: &PathBuf) -> Result<(), String> {
    let said = File::create(log).map_err(|error| error.to_string())?;
    clear(folder)?;
    let in_environment = run(&said, Command::new("python3").args(["-m", "venv"]).arg(folder)).and_then(|()| {
        run(&said, Command::new(folder.join("bin/python")).args(["-m", "pip", "install"]).args(PACKAGES))
    });
    let Err(why) = in_environment else { return Ok(()) };
    clear(folder)?;
    let pip = ["-m", "pip", "install", "--target"];
    run(&said, Command::new("python3").args(pip).arg(folder).args(PACKAGES))
        .map_err(|error| format!("venv: {why}; pip: {error}"))
}

fn run(said: &File, command: &mut Command) -> Result<(), String> {
    let writer = || said.try_clone().map_err(|error| error.to_string());
    command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let status = command.stdout(writer()?).stderr(writer()?).status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

fn clear(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}
