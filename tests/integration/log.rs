//! A log that cannot be written keeps neither a service nor a command from its work.

use std::fs::File;
use std::io::{PipeWriter, Write, pipe};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpListener;

use crate::support::{Program, World};

const PATIENCE: Duration = Duration::from_secs(20);
const PIPE_BYTES: usize = 4096;

/// Returns an output like a disk without room.
fn full_disk() -> Stdio {
    Stdio::from(File::options().write(true).open("/dev/full").unwrap())
}

/// Returns a pipe that nobody reads and that takes no more bytes.
fn full_pipe() -> (std::io::PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    assert_eq!(fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32)), Ok(PIPE_BYTES as i32));
    writer.write_all(&[b' '; PIPE_BYTES]).unwrap();
    (reader, writer)
}

/// Checks that a service serves, publishes and ends in order, whatever it logs to.
async fn serves_with_its_log_at(log: Stdio) {
    let mut world = World::new().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let program = Program::new(&world, 1_000).set("HTTP_ADDR", address).set("GRPC_ADDR", "127.0.0.1:0");
    let mut service = program.set("LOG_LEVEL", "debug").start_into(&["serve"], Stdio::null(), log);
    let client = reqwest::Client::new();
    let publishing = async {
        for number in 0..200 {
            let body = format!(r#"{{"events":[{{"id":"{number}","type":"made","payload":{{}}}}]}}"#);
            let request = client.post(format!("http://{address}/v1/topics/orders/events")).body(body);
            // The service may not serve yet.
            while request.try_clone().unwrap().send().await.is_err() {}
        }
    };
    tokio::time::timeout(PATIENCE, publishing).await.expect("the service serves");
    let asked_at = Instant::now();
    kill(Pid::from_raw(service.id() as i32), Signal::SIGTERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || service.wait().unwrap()).await.unwrap();
    assert!(ended.success() && asked_at.elapsed() < Duration::from_secs(5), "{ended} after {:?}", asked_at.elapsed());
    assert_eq!(world.hot_count().await, 200);
    world.expire_leases().await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_log_nobody_reads_goes_on() {
    let (_reader, writer) = full_pipe();
    serves_with_its_log_at(Stdio::from(writer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_log_is_closed_goes_on() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    serves_with_its_log_at(Stdio::from(writer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_log_is_on_a_full_disk_goes_on() {
    serves_with_its_log_at(full_disk()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_output_nobody_wants_does_its_work() {
    let mut world = World::new().await;
    let program = Program::new(&world, 1);
    for verb in ["status", "archive", "verify"] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        for output in [Stdio::from(writer), full_disk()] {
            let mut command = program.start_into(&[verb], output, full_disk());
            let ended = tokio::task::spawn_blocking(move || command.wait().unwrap()).await.unwrap();
            assert!(ended.success(), "{verb}: {ended}");
        }
    }
    world.audit().await;
}
