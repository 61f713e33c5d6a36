use coldstream::api::proto::{Event, PublishEvent, RenameEventTypeRequest};
use tonic::Status;

use crate::grpc::{Scene, TOPIC, event, ids, is_permanent};
use coldstream::event::NewEvent;

use crate::support::{World, archive, import, old_event, older_than, read_all, settings, unzip, young_event};

async fn rename(scene: &Scene, old_type: &str, new_type: &str) -> Result<(), Status> {
    let request = RenameEventTypeRequest { topic: TOPIC.into(), old_type: old_type.into(), new_type: new_type.into() };
    scene.client.clone().rename_event_type(request).await.map(drop)
}

fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_is_renamed_across_tenants() {
    for archived in [0, 3, 4] {
        let scene = Scene::new().await;
        scene.publish((0..4).map(event).collect()).await.unwrap();
        scene.publish(vec![PublishEvent { tenant_id: "other".into(), ..event(1) }]).await.unwrap();
        if archived > 0 {
            scene.archive(archived).await;
        }
        // One rename comes twice, and some are to a name that is there already.
        for (old, new) in [("type-1", "odd"), ("type-1", "odd"), ("type-0", "odd"), ("odd", "all")] {
            rename(&scene, old, new).await.unwrap();
            let all = scene.page(&[], (0, 9)).await.unwrap();
            assert_eq!(ids(&all), ["event-0", "event-1", "event-2", "event-3"]);
            assert!(scene.page(&[old], (0, 9)).await.unwrap().is_empty(), "{old} is {new}");
            let renamed: Vec<Event> = all.iter().filter(|event| event.r#type == new).cloned().collect();
            assert_eq!(scene.page(&[new], (0, 9)).await.unwrap(), renamed);
            assert_eq!(scene.page(&[new], (1, 1)).await.unwrap(), renamed[1..2]);
            assert_eq!(scene.last_of(&[new]).await.unwrap(), renamed[renamed.len() - 1]);
            is_permanent(scene.last_of(&[old]).await, "unable to find last event by types");
            let elsewhere = scene.event("other", "event-1").await.unwrap();
            assert!([new, "odd"].contains(&elsewhere.r#type.as_str()));
        }
        assert_eq!(types(&scene.page(&[], (0, 9)).await.unwrap()), ["all"; 4]);
        // Later events keep the name that they are published under.
        scene.publish(vec![event(4), event(5)]).await.unwrap();
        assert_eq!(ids(&scene.page(&["type-1"], (0, 9)).await.unwrap()), ["event-5"]);
        scene.archive(1).await;
        scene.settled().await;
        assert_eq!(types(&scene.page(&[], (0, 9)).await.unwrap()), ["all", "all", "all", "all", "type-0", "type-1"]);
        assert_eq!(ids(&scene.page(&["type-1"], (0, 9)).await.unwrap()), ["event-5"]);
        for object in scene.world.bucket.versions().await {
            assert!(!unzip(&object).contains("odd"));
        }
        scene.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_needs_a_name() {
    let scene = Scene::new().await;
    is_permanent(rename(&scene, "type-1", "").await, "the type is empty");
    is_permanent(rename(&scene, "", "type-1").await, "the type is empty");
    rename(&scene, "unheard", "of").await.unwrap();
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rename_is_about_the_archives_that_there_were() {
    let mut world = World::new().await;
    let (log, store) = (world.log(), world.store(settings(2)));
    let of_type = |event: NewEvent, name: &str| NewEvent { event_type: name.into(), ..event };
    let events = [of_type(old_event(1), "a"), of_type(young_event(2), "c"), of_type(old_event(3), "a")];
    import(&store, &log, events).await;
    assert_eq!(archive(&store).await, 2);
    store.rename_type(TOPIC, "a", "b").await.unwrap();
    store.rename_type(TOPIC, "c", "a").await.unwrap();
    // The new archive is between the positions of the other one, which is still to be rewritten.
    let store = world.store(older_than(0, 1));
    assert_eq!(archive(&store).await, 1);
    let seen: Vec<String> = read_all(&store, &log).await.into_iter().map(|event| event.event_type).collect();
    assert_eq!(seen, ["b", "a", "b"]);
    store.rewrite().await.unwrap();
    let seen: Vec<String> = read_all(&store, &log).await.into_iter().map(|event| event.event_type).collect();
    assert_eq!(seen, ["b", "a", "b"]);
    world.audit().await;
}
