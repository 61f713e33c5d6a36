//! A deployment that restarts three replicas one after the other loses nothing.

use std::error::Error;
use std::sync::{Arc, Mutex};

use coldstream::api::proto::PublishRequest;
use coldstream::api::proto::service_client::ServiceClient;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::grpc::{TOPIC, event, serial};
use crate::support::{Program, Role, Service, Subscriber, World};

const REPLICAS: usize = 3;
/// The number of events that are handled while a replica is away, and again before the next one goes.
const EVENTS_BETWEEN: usize = 20;

type Clients = Arc<Mutex<Vec<ServiceClient<Channel>>>>;

async fn start(world: &World) -> (Service, ServiceClient<Channel>) {
    let service = Service::start(Program::new(world, 1_000_000)).await;
    let channel = Endpoint::from_shared(service.grpc.clone()).unwrap().connect_lazy();
    (service, ServiceClient::new(channel))
}

fn client(clients: &Clients, number: usize) -> ServiceClient<Channel> {
    clients.lock().unwrap()[number % REPLICAS].clone()
}

/// Publishes one event after the other until it is told to stop, at the next replica if one does not take it. Returns
/// their number.
async fn publish(clients: Clients, stop: watch::Receiver<bool>) -> usize {
    let (mut number, mut replica) = (0, 0);
    while !*stop.borrow() {
        let request = PublishRequest { topic: TOPIC.into(), events: vec![event(number)] };
        match client(&clients, replica).publish(request).await {
            Ok(_) => number += 1,
            Err(status) => {
                // The client has a code of its own for a connection that breaks off.
                let has_broken_off = status.source().is_some_and(|error| error.is::<tonic::transport::Error>());
                assert!(has_broken_off || status.code() == Code::Unavailable, "{status}");
                replica += 1;
            }
        }
    }
    number
}

/// Returns positions as they come, until all published ones have; goes to the next replica whenever a stream ends.
async fn consume(
    clients: Clients,
    handled: watch::Sender<usize>,
    mut published: watch::Receiver<Option<usize>>,
) -> Vec<i64> {
    let (mut seen, mut replica) = (Vec::new(), 0);
    loop {
        let Ok(mut subscriber) = Subscriber::try_start(&client(&clients, replica), Role::of("billing")).await else {
            replica += 1;
            continue;
        };
        loop {
            if published.borrow_and_update().is_some_and(|count| seen.last() == Some(&(count as i64))) {
                return seen;
            }
            let event = tokio::select! {
                event = subscriber.event_or_end() => event,
                _ = published.changed() => continue,
            };
            let Some(event) = event else { break };
            seen.push(serial(&event));
            subscriber.ack(&event);
            handled.send_replace(seen.len());
        }
        replica += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_are_restarted_one_after_the_other_lose_nothing() {
    let mut world = World::new().await;
    let (mut services, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..REPLICAS {
        let (service, client) = start(&world).await;
        services.push(service);
        clients.push(client);
    }
    let clients = Arc::new(Mutex::new(clients));
    let (stop, stopped) = watch::channel(false);
    let (count, counted) = watch::channel(None);
    let (handled, mut seen) = watch::channel(0);
    let publisher = tokio::spawn(publish(Arc::clone(&clients), stopped));
    let consumer = tokio::spawn(consume(Arc::clone(&clients), handled, counted));
    for (number, running) in services.iter_mut().enumerate() {
        for is_away in [true, false] {
            if is_away {
                running.terminate();
            } else {
                let (service, client) = start(&world).await;
                let ended = std::mem::replace(running, service).end().await;
                assert_eq!(ended.code, Some(0), "{ended:?}");
                clients.lock().unwrap()[number] = client;
            }
            let enough = *seen.borrow_and_update() + EVENTS_BETWEEN;
            seen.wait_for(|seen| *seen >= enough).await.unwrap();
        }
    }
    stop.send(true).unwrap();
    let published = publisher.await.unwrap();
    count.send(Some(published)).unwrap();
    let seen = consumer.await.unwrap();
    // Events in flight may have come again, in their order.
    let mut reached = 0;
    for position in seen {
        assert!(position <= reached + 1, "{position} came after {reached}");
        reached = reached.max(position);
    }
    assert_eq!(reached, published as i64);
    for service in services {
        service.finish().await;
    }
    world.audit().await;
}
