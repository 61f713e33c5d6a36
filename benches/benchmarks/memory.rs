//! The memory that a service takes while events anywhere in its archives are read, round after round, and after that.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use coldstream::embedded::Durability;
use futures::StreamExt;

use crate::report::{Report, count};
use crate::servers::Servers;
use crate::{Mode, events};

const CACHE_MIB: u64 = 256;
const READERS: usize = 8;

pub async fn run(mode: Mode) -> Report {
    let (total, reads, rounds) = (mode.pick(1_000_000, 1_000), mode.pick(20_000, 20), mode.pick(10, 2));
    let rest = Duration::from_secs(mode.pick(60, 1));
    let servers = Servers::start(Durability::None).await;
    events::import(&servers, "memory", total).await;
    let archiver = servers.store("memory", total / 10).await;
    archiver.archive(|_, _| {}).await.expect("events can be archived");
    drop(archiver);
    let free = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it is bound");
    let mut command = servers.coldstream("memory", &["serve"]);
    command.env("HTTP_ADDR", free.to_string()).env("GRPC_ADDR", "127.0.0.1:0");
    command.env("S3_CACHE_BYTES", (CACHE_MIB * 1024 * 1024).to_string());
    let mut service = command.spawn().expect("the program can be started");
    let client = reqwest::Client::new();
    while client.get(format!("http://{free}/ready")).send().await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut rows = vec![row("idle", service.id())];
    for round in 0..rounds {
        let read = async |number: u64| {
            let at = events::splitmix(round * reads + number) % total + 1;
            let limit = if number.is_multiple_of(4) { 1_000 } else { 1 };
            let log = events::log();
            let (tenant, topic) = (log.tenant(), log.topic());
            let target = format!("http://{free}/v1/topics/{topic}/events?tenant={tenant}&from={at}&limit={limit}");
            let answer = client.get(target).send().await.expect("the service answers");
            assert!(answer.status().is_success(), "{}", answer.status());
            answer.bytes().await.expect("the answer is whole");
        };
        futures::stream::iter(0..reads).map(read).buffer_unordered(READERS).collect::<Vec<_>>().await;
        rows.push(row(&format!("after {} reads", count((round + 1) as f64 * reads as f64)), service.id()));
    }
    tokio::time::sleep(rest).await;
    rows.push(row(&format!("{} s later", rest.as_secs()), service.id()));
    let _ = service.kill();
    let _ = service.wait();
    let mut report = Report::new("Memory of a service that reads archives");
    report.paragraph(format!(
        "Resident memory of `coldstream serve` while {READERS} readers ask for events anywhere among {} archived ones (840 bytes of \
         JSON an event): three times of four one, else a page of a thousand. The cache may take {CACHE_MIB} MiB.",
        count(total as f64)
    ));
    report.table(["", "memory"], rows);
    report
}

fn row(when: &str, process: u32) -> [String; 2] {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it is running");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    [when.to_owned(), format!("{} MiB", kib / 1024)]
}
