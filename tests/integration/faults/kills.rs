//! The binary may be killed at every COMMIT, whether it never arrives or happens and nobody hears of it: another run
//! makes up for it.

use super::{BATCH, Scene, Verb};
use crate::support::{Gate, Program, StatementFate, kill_at};

/// The fewest COMMITs of a pass that archives and rewrites.
const COMMITS_MIN: usize = 10;

/// Kills `coldstream archive` at COMMIT 1, 2, 3… until a run needs no more of them, and has another one make up for it.
async fn kill_at_each_commit(moment: &str, fate: fn(Gate) -> StatementFate) {
    let mut scene = Scene::new().await;
    let postgres = scene.world.postgres_proxy().await;
    for k in 1.. {
        scene.prepare(Verb::Archive).await;
        scene.prepare(Verb::Rewrite).await;
        let gate = Gate::new();
        let (held, mut count) = (gate.clone(), 0);
        postgres.script(move |statement| {
            count += usize::from(statement == "COMMIT");
            if statement == "COMMIT" && count == k { fate(held.clone()) } else { StatementFate::Pass }
        });
        let program = Program::new(&scene.world, BATCH as u64);
        let dying = program.set("POSTGRES_CONNECTION", postgres.url()).start(&["archive"]);
        let case = format!("{moment}, COMMIT {k}");
        let is_reached = kill_at(&gate, dying, &case).await;
        postgres.heal();
        scene.check(&case).await;
        scene.world.expire_leases().await;
        Program::new(&scene.world, BATCH as u64).run(&["archive"]).await.succeeded();
        scene.make_up(Verb::Archive, &Ok(()), &case).await;
        if !is_reached {
            assert!(k > COMMITS_MIN, "{case}");
            return scene.finish().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_may_be_killed_before_any_commit() {
    kill_at_each_commit("before it arrives", StatementFate::Hold).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_may_be_killed_after_any_commit_that_it_does_not_know_of() {
    kill_at_each_commit("before its reply", StatementFate::HoldReply).await;
}
