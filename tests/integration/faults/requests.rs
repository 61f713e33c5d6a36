//! Each request of each operation that asks S3 may fail. (Requests of an archive or a rewrite that get lost are tried
//! in `archive::losses` and `edit::rewriters`.)

use futures::future::join_all;

use super::{BATCH, Scene, Verb};
use crate::support::{Fate, settings};

/// A name, and the fate of a request.
type Disturbance = (&'static str, fn() -> Fate);

const VERBS: [Verb; 3] = [Verb::Archive, Verb::Rewrite, Verb::Sweep];
/// The fewest requests of each verb.
const REQUESTS_MIN: usize = 4;

const SLOW_DOWN: &str = "<Error><Code>SlowDown</Code></Error>";
const INTERNAL: &str = "<Error><Code>InternalError</Code></Error>";
const FULL: &str = "<Error><Code>XMinioStorageFull</Code></Error>";
const CONDITION: &str = "<Error><Code>PreconditionFailed</Code></Error>";
const CONFLICT: &str = "<Error><Code>OperationAborted</Code></Error>";
const EXPIRED: &str = "<Error><Code>ExpiredToken</Code></Error>";
const DONE: &str = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>";
const PAGE: &str = "<html><body>Please log in</body></html>";

/// Disturbs request 1, 2, 3… of a run, until a run needs no more of them.
async fn disturb_each(verb: Verb, (name, fate): Disturbance, is_for_good: bool) {
    let mut scene = Scene::new().await;
    let store = scene.world.store(settings(BATCH as u64));
    for k in 1.. {
        scene.prepare(verb).await;
        let mut count = 0;
        scene.world.proxy.take_seen();
        scene.world.proxy.script(move |_| {
            count += 1;
            if count == k || (is_for_good && count > k) { fate() } else { Fate::Pass }
        });
        let outcome = scene.attempt(&store, verb).await;
        let is_reached = scene.world.proxy.take_seen().len() >= k;
        scene.world.proxy.heal();
        let case = format!("{verb:?}, {name}, request {k}, for good: {is_for_good}: {outcome:?}");
        scene.make_up(verb, &outcome, &case).await;
        if !is_reached {
            assert!(outcome.is_ok() && k > REQUESTS_MIN, "{case}");
            return scene.finish().await;
        }
    }
}

async fn disturb(disturbances: &[Disturbance], is_for_good: bool) {
    let all = VERBS.iter().flat_map(|verb| disturbances.iter().map(|disturbance| (*verb, *disturbance)));
    join_all(all.map(|(verb, disturbance)| disturb_each(verb, disturbance, is_for_good))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_may_be_refused() {
    let refused: [Disturbance; 3] = [
        ("500", || Fate::Answer(500, INTERNAL)),
        ("412", || Fate::Answer(412, CONDITION)),
        ("409", || Fate::Answer(409, CONFLICT)),
    ];
    disturb(&refused, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_may_happen_and_be_answered_with_an_error() {
    let answered: [Disturbance; 3] = [
        ("happens, 500", || Fate::AnswerAfter(500, INTERNAL)),
        ("happens, 503", || Fate::AnswerAfter(503, SLOW_DOWN)),
        ("happens, 412", || Fate::AnswerAfter(412, CONDITION)),
    ];
    disturb(&answered, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_may_be_answered_with_something_else() {
    let answered: [Disturbance; 5] = [
        ("done, but not so", || Fate::Answer(200, DONE)),
        ("an error behind a 200", || Fate::Answer(200, INTERNAL)),
        ("a page", || Fate::Answer(200, PAGE)),
        ("happens, then a page", || Fate::AnswerAfter(200, PAGE)),
        ("cut short", || Fate::CutBody(0)),
    ];
    disturb(&answered, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_may_be_the_last_one_for_now() {
    let away: [Disturbance; 3] = [
        ("throttled", || Fate::Answer(503, SLOW_DOWN)),
        ("the disk is full", || Fate::Answer(507, FULL)),
        ("credentials expired", || Fate::Answer(403, EXPIRED)),
    ];
    disturb(&away, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_and_any_reply_of_a_sweep_may_get_lost() {
    let lost: [Disturbance; 2] = [("request lost", || Fate::LoseRequest), ("reply lost", || Fate::LoseReply)];
    let all = lost.into_iter().flat_map(|disturbance| [false, true].map(|is_for_good| (disturbance, is_for_good)));
    join_all(all.map(|(disturbance, is_for_good)| disturb_each(Verb::Sweep, disturbance, is_for_good))).await;
}
