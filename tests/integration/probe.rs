//! A service finds out what a bucket can do when it starts, and leaves nothing of the probe.

use crate::support::{Fate, Kind, Program, Service, World};

#[tokio::test]
async fn a_bucket_is_probed_and_left_as_it_was() {
    let mut world = World::new().await;
    let bucket = world.bucket_client();
    for versions in [false, true] {
        if versions {
            world.bucket.keep_versions().await;
        }
        assert_eq!(bucket.probe().await.unwrap().versions, versions);
    }
    assert_eq!(world.bucket.versions().await, Vec::<Vec<u8>>::new());
    assert_eq!(world.bucket.unfinished_uploads().await, Vec::<String>::new());
    world.audit().await;
}

#[tokio::test]
async fn what_a_server_does_not_know_is_no_failure() {
    let mut world = World::new().await;
    let mut puts = 0;
    world.proxy.script(move |request| {
        puts += usize::from(request.method == "PUT" && request.kind == Kind::Other);
        match request.kind {
            Kind::Other if puts == 2 => Fate::Answer(501, ""),
            Kind::CopyPart => Fate::Answer(501, ""),
            _ => Fate::Pass,
        }
    });
    let abilities = world.bucket_client().probe().await.unwrap();
    assert!(!abilities.conditional_writes && !abilities.range_copies, "{abilities:?}");
    assert_eq!(world.bucket.keys().await, Vec::<String>::new());
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_probed_keeps_no_service_from_starting() {
    let mut world = World::new().await;
    world.proxy.script(|request| match (request.method.as_str(), request.kind) {
        ("PUT", Kind::Other) => Fate::Answer(403, ""),
        _ => Fate::Pass,
    });
    let service = Service::start(Program::new(&world, 1)).await;
    service.terminate();
    let ended = service.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.errors.iter().any(|line| line.contains("could not be probed")), "{ended:?}");
    world.audit().await;
}
