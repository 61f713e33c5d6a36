//! A recovery takes over everything but objects that are refused or damaged, and they stop no start after it.

use coldstream::store::TroubleKind;

use super::{DENIED, EVERY, GLACIER, Scene, batches_of_four};
use crate::support::{Fate, Kind, Program, Service, publish, read_all, young_event};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_takes_over_all_but_what_is_refused() {
    for (kinds, body) in [(&[Kind::Get][..], GLACIER), (EVERY, DENIED)] {
        let mut scene = Scene::new().await;
        scene.world.lose_database().await;
        scene.refuse(kinds, 403, body);
        let store = scene.store();
        for (round, archives) in [1, 0].into_iter().enumerate() {
            let recovery = store.recover(|_| {}).await.unwrap();
            assert_eq!(recovery.archives, archives, "round {round}");
            let [unrecovered] = &recovery.unrecovered[..] else { panic!("{recovery:?}") };
            assert!(unrecovered.object == scene.key && unrecovered.why.contains("403"), "{recovery:?}");
        }
        scene.has_trouble(TroubleKind::Recover, "recovered").await;
        let unreconciled = store.unreconciled().await.unwrap();
        assert_eq!(unreconciled.of_another_time, Vec::<String>::new(), "a recovery has told of it");
        scene.world.proxy.heal();
        let recovery = store.recover(|_| {}).await.unwrap();
        assert_eq!((recovery.archives, recovery.unrecovered.len()), (1, 0));
        assert_eq!(scene.troubles().await, []);
        assert_eq!(read_all(&store, &scene.log).await, scene.before[..8]);
        scene.finish().await;
    }
}

/// The positions that a damaged object says it holds are given to no other event: the object is taken over once it is
/// whole again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_recovered_stops_no_start_and_keeps_its_positions() {
    let mut scene = Scene::new().await;
    let (key, last) = (scene.world.key(&scene.other), scene.world.key(&scene.victim));
    let (original, said) = (scene.world.bucket.get(&key).await, scene.world.bucket.said(&key).await);
    scene.world.bucket.put(&key, b"garbage".to_vec()).await;
    scene.world.lose_database().await;
    let program = || Program::new(&scene.world, 4);
    let line = program().run(&["archive"]).await.failed();
    assert!(line.contains("is older than the bucket") && line.contains("2 archives"), "{line}");
    let recovered = program().run(&["recover"]).await;
    assert_eq!(recovered.code, Some(1), "{recovered:?}");
    assert!(recovered.output.contains(&key) && !recovered.output.contains(&last), "{recovered:?}");
    assert!(recovered.output.contains("recovered 4 events in 1 objects"), "{recovered:?}");

    let service = Service::start(program()).await;
    let url = format!("{}/v1/topics/orders/events/event-1?tenant=acme", service.http);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 200);
    service.terminate();
    let ended = service.end().await;
    assert!(ended.code == Some(0) && ended.errors.iter().any(|line| line.contains(&key)), "{ended:?}");
    let store = scene.world.store(batches_of_four());
    assert_eq!(publish(&store, &scene.log, vec![young_event(100)]).await[0].position, 9);
    assert!(program().run(&["status"]).await.succeeded().contains("not recovered since"));

    scene.world.bucket.put_saying(&key, original, &said).await;
    let said = program().run(&["recover"]).await.succeeded();
    assert!(said.contains("recovered 4 events in 1 objects"), "{said}");
    let events = read_all(&store, &scene.log).await;
    assert_eq!((&events[..8], events.len()), (&scene.before[..8], 9));
    scene.finish().await;
}

/// The database is lost; one object of the bucket is refused, and one says nothing of itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_names_each_and_can_be_run_again() {
    let mut scene = Scene::new().await;
    let foreign = scene.world.key(&scene.other);
    let (original, said) = (scene.world.bucket.get(&foreign).await, scene.world.bucket.said(&foreign).await);
    scene.world.bucket.put_saying(&foreign, b"garbage".to_vec(), &[]).await;
    scene.world.lose_database().await;
    scene.refuse(&[Kind::Get], 403, GLACIER);
    for _ in 0..2 {
        let ended = Program::new(&scene.world, 4).run(&["recover"]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.output.contains(&scene.key) && ended.output.contains(&foreign), "{ended:?}");
        assert!(ended.errors.last().unwrap().contains("2 objects were not recovered"), "{ended:?}");
    }
    scene.world.proxy.script(|_| Fate::Pass);
    scene.world.bucket.put_saying(&foreign, original, &said).await;
    Program::new(&scene.world, 4).run(&["recover"]).await.succeeded();
    assert_eq!(read_all(&scene.store(), &scene.log).await, scene.before[..8]);
    scene.finish().await;
}
