//! A group that comes to an event which cannot be read stands still there, and everybody else goes on.

use coldstream::api::proto::PublishEvent;
use coldstream::store::TroubleKind;
use tonic::Code;
use uuid::Uuid;

use super::GLACIER;
use crate::grpc::{Scene, TENANT, event};
use crate::support::{Fate, Kind, Role, Subscriber};

const LIST: &str = "SELECT id FROM archives ORDER BY first_position";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_stands_still_at_what_cannot_be_read_and_others_go_on() {
    let scene = Scene::new().await;
    scene.publish((0..6).map(event).collect()).await.unwrap();
    assert_eq!(scene.archive(3).await, 6);
    let archives: Vec<Uuid> = sqlx::query_scalar(LIST).fetch_all(&scene.world.sql).await.unwrap();
    let name = archives[1].to_string();
    scene.world.proxy.script(move |request| match request.kind == Kind::Get && request.target.contains(&name) {
        true => Fate::Answer(403, GLACIER),
        false => Fate::Pass,
    });
    let status = scene.event(TENANT, "event-4").await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "clients do not ask again: {status}");
    assert!(status.message().contains(&archives[1].to_string()), "{status}");

    let mut subscriber = Subscriber::start(&scene.client, Role::of("from the beginning")).await;
    assert_eq!(subscriber.handled_ids(3).await, ["event-0", "event-1", "event-2"], "events before it come");
    // Another tenant's events come all the same.
    scene.publish(vec![PublishEvent { tenant_id: "other".into(), ..event(50) }]).await.unwrap();
    assert_eq!(subscriber.handled_ids(1).await, ["event-50"]);
    scene.world.proxy.take_seen();
    subscriber.quiet().await;
    assert!(scene.world.proxy.count(Kind::Get) <= 2, "the object is asked for rarely");
    let troubles = scene.world.store(crate::support::settings(4)).status().await.unwrap().troubles;
    assert_eq!((troubles.len(), troubles[0].kind), (1, TroubleKind::Read), "{troubles:?}");
    scene.world.proxy.heal();
    assert_eq!(subscriber.handled_ids(3).await, ["event-3", "event-4", "event-5"]);
    drop(subscriber);
    scene.finish().await;
}
