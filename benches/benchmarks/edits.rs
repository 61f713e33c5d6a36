//! The cost of the rewrite of an archive, by how much of it is edited.

use std::time::Instant;

use coldstream::embedded::Durability;
use coldstream::event::Patch;
use coldstream::store::{EditRequest, Store};

use crate::report::{Report, count, median, ratio};
use crate::servers::Servers;
use crate::{Mode, events, usage};

const DATABASE: &str = "edited";

pub async fn run(mode: Mode) -> Report {
    let batch_size: u64 = mode.pick(100_000, 1_000);
    let servers = Servers::start(Durability::None).await;
    events::import(&servers, DATABASE, batch_size).await;
    let store = servers.store(DATABASE, batch_size).await;
    assert_eq!(store.archive(|_, _| {}).await.expect("the events can be archived").events as u64, batch_size);

    let all = mode.pick(10_000, 100);
    let mut rewrites: [Vec<(f64, f64)>; 3] = Default::default();
    for round in 0..mode.pick(3, 1) {
        let one = batch_size / 2 + round;
        for (costs, numbers) in rewrites.iter_mut().zip([
            vec![one],
            // Every member has some of these edits.
            (0..batch_size).step_by(mode.pick(100, 100)).collect(),
            (0..all).map(|number| number * (batch_size / all)).collect(),
        ]) {
            let generation = generation(&store).await;
            for number in numbers {
                edit(&store, number, round).await;
            }
            let (started, before) = (Instant::now(), cpu_seconds(&servers));
            assert_eq!(store.rewrite().await.expect("the archive can be rewritten"), 1);
            costs.push((cpu_seconds(&servers) - before, started.elapsed().as_secs_f64()));
            assert_eq!(self::generation(&store).await, generation + 1, "all edits are one rewrite");
        }
    }

    let mut report = Report::new("Editing archived events");
    report.paragraph(format!(
        "One archive of {batch_size} events (840 bytes of JSON each) is rewritten, with the read that compares what was \
         written. CPU is that of the service and of Postgres, without the S3 server's. With an edit in every member, \
         every member is encoded anew. However many edits are pending, they are one rewrite: the generation of the \
         archive rises by one. Medians of interleaved rounds."
    ));
    let cpu = |costs: &[(f64, f64)]| median(costs.iter().map(|(cpu, _)| *cpu).collect());
    let wall = |costs: &[(f64, f64)]| median(costs.iter().map(|(_, wall)| *wall).collect());
    let whole = cpu(&rewrites[1]);
    let names = ["one".to_owned(), "one in every member".to_owned(), format!("{}, everywhere", count(all as f64))];
    report.table(
        ["edits pending", "CPU", "time", "CPU against encoding it anew"],
        names.into_iter().zip(&rewrites).map(|(name, costs)| {
            [
                name,
                format!("{:.0} ms", cpu(costs) * 1e3),
                format!("{:.0} ms", wall(costs) * 1e3),
                ratio(cpu(costs) / whole),
            ]
        }),
    );
    report
}

async fn edit(store: &Store, number: u64, round: u64) {
    let patch = Patch::parse(&format!(r#"{{"number":{}}}"#, number + round + 1)).expect("it is a patch");
    let request = EditRequest { patch, actor: "benchmark".into(), reason: "measured".into(), ticket: "none".into() };
    let edited = store.edit(&events::log(), &events::id(number), &request).await.expect("it can be edited");
    assert!(edited.is_some(), "there is such an event");
}

async fn generation(store: &Store) -> i64 {
    let archives = store.archives(&events::log()).await.expect("the catalog can be read");
    archives.iter().map(|archive| archive.generation).sum()
}

fn cpu_seconds(servers: &Servers) -> f64 {
    servers.postgres_cpu_seconds() + usage::own_cpu_seconds()
}
