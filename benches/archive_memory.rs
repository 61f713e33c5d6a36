//! Peak memory of one `coldstream archive`, for a small batch and for a large one: it is to be flat.
//!
//!     cargo bench --bench archive_memory
//!
//! Prints, for each batch size, the peak resident memory of the process and how long it took. Postgres and the S3
//! server run elsewhere, as they would: their memory does not count.

use std::io::{BufWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use coldstream::embedded::{Durability, Postgres, S3Server};

const BATCH_SIZES: [u64; 4] = [10_000, 100_000, 300_000, 1_000_000];
const COLDSTREAM: &str = env!("CARGO_BIN_EXE_coldstream");
/// So that an event has about 840 bytes of JSON.
const PADDING_BYTES: usize = 640;

#[tokio::main]
async fn main() {
    // `cargo test --all-targets` runs benchmarks too, with this argument; it is to prove that they run.
    let is_test = std::env::args().any(|argument| argument == "--test");
    let batch_sizes = if is_test { &BATCH_SIZES[..1] } else { &BATCH_SIZES[..] };
    println!("{:>10}  {:>12}  {:>8}", "batch", "peak memory", "seconds");
    for batch_size in batch_sizes {
        let (peak_kib, seconds) = measure(*batch_size).await;
        println!("{batch_size:>10}  {:>8} MiB  {seconds:>8.1}", peak_kib / 1024);
    }
}

async fn measure(batch_size: u64) -> (i64, f64) {
    let folder = tempfile::Builder::new().prefix("coldstream-bench-").tempdir().unwrap();
    let objects = folder.path().join("objects");
    std::fs::create_dir(&objects).unwrap();
    let postgres = Postgres::start(folder.path(), Durability::None).await.unwrap();
    let s3 = S3Server::start(&objects, "access", "secret", Durability::None).await.unwrap();
    let variables = [
        ("POSTGRES_CONNECTION", postgres.connection("postgres")),
        ("LOG_LEVEL", "warn".to_owned()),
        ("STREAMS_ARCHIVE", "true".to_owned()),
        ("STREAMS_ARCHIVE_SIZE", batch_size.to_string()),
        ("S3_ENDPOINT", s3.endpoint()),
        ("S3_SSL", "false".to_owned()),
        ("S3_ACCESS_KEY", "access".to_owned()),
        ("S3_SECRET_KEY", "secret".to_owned()),
        ("S3_BUCKET", "events".to_owned()),
    ];
    let command = |verb: &[&str]| {
        let mut command = Command::new(COLDSTREAM);
        command.args(verb).env_clear().envs(variables.clone()).current_dir(folder.path());
        command
    };
    let mut import = command(&["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let stdin = import.stdin.take().unwrap();
    tokio::task::spawn_blocking(move || write_events(BufWriter::new(stdin), batch_size)).await.unwrap();
    assert!(import.wait().unwrap().success());

    let started = Instant::now();
    let archive = command(&["archive"]).stdout(Stdio::null()).spawn().unwrap();
    let (status, peak_kib) = tokio::task::spawn_blocking(move || wait(archive)).await.unwrap();
    assert!(status.success());
    (peak_kib, started.elapsed().as_secs_f64())
}

fn write_events(mut out: impl Write, events: u64) {
    for number in 0..events {
        let padding = padding(number);
        writeln!(
            out,
            "{{\"id\":\"event-{number}\",\"tenant_id\":\"acme\",\"topic\":\"orders\",\"stream\":\"order-{}\",\
             \"type\":\"order.placed\",\"raised_at\":\"2020-01-01T00:00:00Z\",\
             \"payload\":{{\"number\":{number},\"text\":\"{padding}\"}}}}",
            number % 50_000
        )
        .unwrap();
    }
}

/// Digits that compress about as well as payloads do.
fn padding(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:032}", state >> 40)
    };
    (0..PADDING_BYTES / 32).map(word).collect()
}

/// Waits for a process and gives its peak resident memory in KiB.
fn wait(child: Child) -> (ExitStatus, i64) {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: the process is our child, waited for only here, and both pointers are to locals that outlive the call.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(waited, child.id() as libc::pid_t);
    // SAFETY: wait4 has filled it in.
    let usage = unsafe { usage.assume_init() };
    (ExitStatus::from_raw(status), usage.ru_maxrss)
}
