//! Each statement of each operation may fail, every COMMIT among them.

use std::sync::{Arc, OnceLock};

use coldstream::store::Store;
use futures::future::join_all;

use super::{BATCH, Scene, Verb, impatient};
use crate::support::{PostgresProxy, SET_UP, StatementFate, settings};

/// A name, and the fate of a statement.
type Disturbance = (&'static str, fn() -> StatementFate);

/// Each verb, with the fewest statements and the fewest COMMITs that it executes.
const VERBS: [(Verb, usize, usize); 5] =
    [(Verb::Publish, 4, 1), (Verb::Edit, 4, 1), (Verb::Archive, 20, 5), (Verb::Rewrite, 20, 5), (Verb::Sweep, 20, 5)];

/// The statements that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    All,
    Commits,
}

async fn disturb_each(verb: Verb, counted: Counted, min: usize, disturbance: Disturbance, is_for_good: bool) {
    let scene = Scene::new().await;
    let postgres = scene.world.postgres_proxy().await;
    let store = scene.world.store_behind(&postgres, settings(BATCH as u64));
    disturb(scene, (store, postgres), (verb, counted, min), disturbance, is_for_good).await;
}

/// Disturbs statement 1, 2, 3… of a run, and perhaps all that follow, until a run needs no more of them. All runs are
/// in one process, which goes on once all is healed.
async fn disturb(
    mut scene: Scene,
    (store, postgres): (Arc<Store>, PostgresProxy),
    (verb, counted, min): (Verb, Counted, usize),
    (name, fate): Disturbance,
    is_for_good: bool,
) {
    for k in 1.. {
        scene.prepare(verb).await;
        let (mut count, reached) = (0, Arc::new(OnceLock::new()));
        let disturbed = Arc::clone(&reached);
        postgres.script(move |statement| {
            let is_counted = (counted == Counted::All && statement != SET_UP) || statement == "COMMIT";
            count += usize::from(is_counted);
            if is_counted && count == k {
                disturbed.get_or_init(|| statement.to_owned());
                return fate();
            }
            if is_for_good && count >= k { StatementFate::LoseStatement } else { StatementFate::Pass }
        });
        let outcome = scene.attempt(&store, verb).await;
        postgres.heal();
        let case = format!("{verb:?}, {name}, {counted:?} {k}, {reached:?}, for good: {is_for_good}: {outcome:?}");
        scene.make_up(verb, &outcome, &case).await;
        if reached.get().is_none() {
            assert!(outcome.is_ok() && k > min, "{case}");
            return scene.finish().await;
        }
    }
}

async fn disturb_commits(disturbance: Disturbance, is_for_good: bool) {
    join_all(VERBS.map(|(verb, _, min)| disturb_each(verb, Counted::Commits, min, disturbance, is_for_good))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_statement_may_get_lost() {
    let lost: Disturbance = ("lost", || StatementFate::LoseStatement);
    join_all(VERBS.map(|(verb, min, _)| disturb_each(verb, Counted::All, min, lost, false))).await;
}

/// A rewrite and a sweep write nothing that an archive run does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_may_be_full_at_any_statement() {
    let full: Disturbance = ("disk full", || StatementFate::Refuse("53100"));
    let writers = VERBS.into_iter().filter(|(verb, ..)| matches!(verb, Verb::Publish | Verb::Edit | Verb::Archive));
    join_all(writers.map(|(verb, min, _)| disturb_each(verb, Counted::All, min, full, false))).await;
}

/// A caller that hears nothing waits no longer than any caller does, and what the silent connection holds is released
/// by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_may_be_heard_after_any_statement_of_a_caller() {
    let fates: [Disturbance; 2] =
        [("no statement", || StatementFate::SwallowStatement), ("no reply", || StatementFate::SwallowReply)];
    let verbs = [(Verb::Publish, Counted::All, 3), (Verb::Edit, Counted::All, 4), (Verb::Archive, Counted::Commits, 5)];
    for fate in fates {
        join_all(verbs.map(async |verb| {
            let scene = Scene::new().await;
            let postgres = scene.world.postgres_proxy().await;
            let store = scene.world.store_with(&impatient(postgres.url()), settings(BATCH as u64));
            disturb(scene, (store, postgres), verb, fate, false).await;
        }))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_may_happen_and_nobody_hears_of_it() {
    disturb_commits(("reply lost", || StatementFate::LoseReply), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_may_be_the_last_that_happens_for_now() {
    disturb_commits(("reply lost", || StatementFate::LoseReply), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_may_give_way_to_another_transaction() {
    disturb_commits(("serialization failure", || StatementFate::Refuse("40001")), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_off_before_it_is_set_up_is_replaced() {
    for (verb, ..) in VERBS {
        let mut scene = Scene::new().await;
        let postgres = scene.world.postgres_proxy().await;
        let store = scene.world.store_behind(&postgres, settings(BATCH as u64));
        scene.prepare(verb).await;
        let (lost, seen) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::new()));
        let (at, again) = (Arc::clone(&lost), Arc::clone(&seen));
        postgres.script(move |statement| match statement == SET_UP && at.set(()).is_ok() {
            true => StatementFate::LoseStatement,
            false => {
                again.get_or_init(|| at.get().is_some() && statement == SET_UP);
                StatementFate::Pass
            }
        });
        let outcome = scene.attempt(&store, verb).await;
        postgres.heal();
        assert!(outcome.is_ok() && lost.get().is_some() && seen.get() == Some(&true), "{verb:?}: {outcome:?}");
        scene.make_up(verb, &outcome, &format!("{verb:?}")).await;
        scene.finish().await;
    }
}

/// Publishers and editors hear nothing of a deadlock. Reads take no lock that another transaction could wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_statement_of_a_caller_may_end_a_deadlock() {
    for verb in [Verb::Publish, Verb::Edit] {
        let mut scene = Scene::new().await;
        let postgres = scene.world.postgres_proxy().await;
        let store = scene.world.store_behind(&postgres, settings(BATCH as u64));
        for k in 1..5 {
            let mut count = 0;
            postgres.script(move |statement| {
                let is_locking = ["INSERT", "UPDATE", "COMMIT"].iter().any(|word| statement.contains(word));
                count += i32::from(is_locking);
                if is_locking && count == k { StatementFate::Refuse("40P01") } else { StatementFate::Pass }
            });
            let outcome = scene.attempt(&store, verb).await;
            postgres.heal();
            assert!(outcome.is_ok(), "{verb:?}, statement {k}: {outcome:?}");
            scene.make_up(verb, &outcome, &format!("{verb:?}, statement {k}")).await;
        }
        scene.finish().await;
    }
}
