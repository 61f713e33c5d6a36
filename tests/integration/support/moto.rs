//! A real S3 server for the tests: moto, from PyPI. The server is one per process, on a port that the system chose, and
//! dies with the process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use coldstream::embedded::keeper;

use super::{exit, python};

/// The server needs only Flask and its companion of moto's extra `server`, which brings 200 MB more.
const PACKAGES: [&str; 3] = ["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
const FOLDER: &str = "moto-5.2.5";
/// A program that imitates S3 alone. Moto's program for everything looks through the folders of 190 services at every
/// request.
const PROGRAM: &str = "
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
run_simple('127.0.0.1', 0, create_backend_app('s3'), threaded=True, request_handler=MotoRequestHandler)
";

static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
static SERVER: Mutex<Option<Child>> = Mutex::new(None);

/// Returns the address at which the server of this process listens; the first caller starts it.
pub async fn address() -> SocketAddr {
    tokio::task::spawn_blocking(|| *ADDRESS.get_or_init(start)).await.expect("starting moto does not panic twice")
}

/// Stops the server at the end of the process.
pub fn stop() {
    if let Some(mut server) = SERVER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = server.kill();
        let _ = server.wait();
    }
}

fn start() -> SocketAddr {
    exit::register();
    let mut command = python::with(FOLDER, &PACKAGES);
    command.args(["-c", PROGRAM]);
    command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut server = keeper::spawn(command).expect("python3 cannot be run");
    let mut said = BufReader::new(server.stderr.take().expect("stderr is piped"));
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
    // Moto writes a line for every request, and would wait for somebody to read it.
    thread::spawn(move || said.lines().for_each(drop));
    *SERVER.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    address
}
