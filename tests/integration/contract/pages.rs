//! Pages of a topic, as clients ask for them, in the archive, in hot rows and across the boundary.

use coldstream::api::proto::Event;

use crate::grpc::{Scene, event, everywhere, ids, is_permanent, serial};

const EVENTS: usize = 7;
/// The number of archived events when half are archived.
const HALF: usize = 4;

async fn scene_with_events() -> Scene {
    let scene = Scene::new().await;
    scene.publish((0..EVENTS).map(event).collect()).await.unwrap();
    scene
}

/// Returns the ids of the events of these types, or of any type if none is given.
fn expected(numbers: impl Iterator<Item = usize>, types: &[&str]) -> Vec<String> {
    let of_types = numbers.filter(|number| types.is_empty() || types.contains(&event(*number).r#type.as_str()));
    of_types.map(|number| format!("event-{number}")).collect()
}

/// Goes over everything with pages of all sizes, as clients do.
async fn check_iterations(types: &[&str]) {
    let scene = scene_with_events().await;
    let expected = expected(0..EVENTS, types);
    let count = expected.len() as i64;
    let sizes = [1, 2, count.max(1), count + 1];
    let seen = everywhere(&scene, EVENTS as i64, async || {
        let mut seen = Vec::new();
        for per_page in sizes {
            seen.push(scene.iterate(types, per_page).await);
            let mut paged = Vec::new();
            for page in 0..=count {
                paged.extend(scene.page(types, (page, per_page)).await.unwrap());
            }
            seen.push(paged);
        }
        seen
    })
    .await;
    for seen in seen {
        assert_eq!(ids(&seen), expected, "{types:?}");
        assert!(seen.is_sorted_by_key(serial), "{types:?}");
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_iteration_sees_each_event_once_and_ends() {
    check_iterations(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_iteration_by_types_sees_each_event_once_and_ends() {
    for types in [&["type-1"] as &[&str], &["type-0", "type-1"], &["nothing", "type-0"], &["nothing"]] {
        check_iterations(types).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_begin_behind_an_event_wherever_it_is() {
    let scene = scene_with_events().await;
    let pages = everywhere(&scene, EVENTS as i64, async || {
        is_permanent(scene.page_after("nobody", &[], (0, 1)).await, "nobody");
        let mut pages = Vec::new();
        // The first events will be archived, the last ones stay hot, and the boundary is between.
        for number in 0..EVENTS {
            for types in [&[] as &[&str], &["type-0"], &["type-1"]] {
                for page in 0..3 {
                    let after = format!("event-{number}");
                    let found = scene.page_after(&after, types, (page, 2)).await.unwrap();
                    let behind = expected(number + 1..EVENTS, types);
                    let of_page = behind.iter().skip(2 * page as usize).take(2);
                    assert_eq!(ids(&found), of_page.collect::<Vec<_>>(), "{after} {types:?} {page}");
                    pages.push(found);
                }
            }
        }
        pages.push(scene.page_after("", &[], (1, 3)).await.unwrap());
        pages
    });
    assert_eq!(ids(pages.await.last().unwrap()), ["event-3", "event-4", "event-5"], "behind nothing is the start");
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_across_the_boundary_is_the_same_as_before() {
    let scene = scene_with_events().await;
    let pages = async |half: usize| {
        let mut pages = vec![scene.page(&[], (0, EVENTS as i64)).await.unwrap()];
        for before in 1..half {
            let after = format!("event-{}", before - 1);
            pages.push(scene.page_after(&after, &[], (0, (2 * (half - before)) as i64)).await.unwrap());
        }
        pages.push(scene.page(&["type-1"], (0, 3)).await.unwrap());
        pages.push(scene.page(&[], (1, 3)).await.unwrap());
        pages
    };
    let hot = pages(HALF).await;
    assert_eq!(scene.archive(HALF as u64).await, HALF as i64);
    let across = pages(HALF).await;
    assert_eq!(across, hot);
    for page in across {
        let archived = page.iter().filter(|event| serial(event) <= HALF as i64).count();
        assert!(archived > 0 && archived < page.len(), "the page is across: {:?}", ids(&page));
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_run_between_two_pages_shifts_nothing() {
    let by_number = async |scene: &Scene, _: &[Event], page| scene.page(&[], (page, 2)).await.unwrap();
    check_run_between(0, by_number).await;
    let by_number_behind =
        async |scene: &Scene, _: &[Event], page| scene.page_after("event-0", &[], (page, 2)).await.unwrap();
    check_run_between(1, by_number_behind).await;
    let by_id = async |scene: &Scene, seen: &[Event], _| {
        let after = seen.last().map_or("", |event| event.id.as_str());
        scene.page_after(after, &[], (0, 2)).await.unwrap()
    };
    check_run_between(0, by_id).await;
}

/// Archives half of what is hot, and a bit more, between every two pages.
async fn check_run_between(first: usize, ask: impl AsyncFn(&Scene, &[Event], i64) -> Vec<Event>) {
    let scene = scene_with_events().await;
    let all = scene.page(&[], (0, 100)).await.unwrap();
    let mut seen = Vec::new();
    for page in 0.. {
        let found = ask(&scene, &seen, page).await;
        if found.is_empty() {
            break;
        }
        seen.extend(found);
        let hot = scene.world.hot_count().await;
        let batch = hot / 2 + 1;
        assert_eq!(scene.archive(batch as u64).await, if hot > 0 { batch } else { 0 });
    }
    assert_eq!(seen, all[first..]);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_past_the_end_and_pages_of_nothing_are_empty() {
    let scene = Scene::new().await;
    assert_eq!(scene.page(&[], (0, 10)).await.unwrap(), [], "nobody published to the topic");
    scene.publish((0..EVENTS).map(event).collect()).await.unwrap();
    let count = EVENTS as i64;
    everywhere(&scene, count, async || {
        for types in [&[] as &[&str], &["type-1"], &["nothing"]] {
            for (page, per_page) in
                [(1, count), (count, 1), (i64::MAX, i64::MAX), (0, 0), (1, 0), (0, -1), (3, i64::MIN)]
            {
                let case = format!("{types:?} {page} {per_page}");
                assert_eq!(scene.page(types, (page, per_page)).await.unwrap(), [], "{case}");
                assert_eq!(scene.page_after("event-1", types, (page, per_page)).await.unwrap(), [], "{case}");
            }
            assert_eq!(scene.page_after("event-6", types, (0, 10)).await.unwrap(), [], "{types:?}");
        }
    })
    .await;
    scene.finish().await;
}
