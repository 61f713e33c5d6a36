//! Connections to the gRPC port may be quiet for long, and streams have no end; a client that is gone is let go all the
//! same.

use std::net::SocketAddr;

use coldstream::api::proto::service_client::ServiceClient;
use futures::StreamExt;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{PATIENCE, PREFACE, Scene, until_let_go};
use crate::grpc::{Scene as Calls, event};
use crate::support::{Program, Role, Subscriber, World};

const OPEN: &str = "coldstream_connections{door=\"grpc\"}";
/// A middle box before a service that can forget its connection: then nothing passes, and nobody is told. Dropping it
/// cuts the connection.
struct MiddleBox {
    address: SocketAddr,
    forget: tokio::sync::oneshot::Sender<()>,
}

impl MiddleBox {
    async fn start(service: &str) -> MiddleBox {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, service) = (listener.local_addr().unwrap(), service.trim_start_matches("http://").to_owned());
        let (forget, forgets) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(service).await.unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                forgets = forgets => if forgets.is_err() { return },
            }
            // Both connections stay open, and neither end hears of the other.
            std::future::pending::<()>().await;
        });
        MiddleBox { address, forget }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_no_ping_is_let_go_and_whoever_is_quiet_stays() {
    let scene = Scene::new(&[("GRPC_KEEPALIVE_SECONDS", "1")]).await;
    let endpoint = Endpoint::from_shared(scene.service.grpc.clone()).unwrap();
    let quiet = endpoint.connect().await.unwrap();
    let mut subscriber =
        Subscriber::start(&ServiceClient::new(quiet.clone()), Role::topics("billing", &["orders"])).await;
    let unused = endpoint.connect().await.unwrap();
    // The strangers come one after the other, so that the quiet clients are quiet for longer than the service waits for
    // anybody.
    for said in [&b""[..], &PREFACE[..10], PREFACE] {
        until_let_go(scene.at_grpc(said).await).await;
    }
    assert_eq!(scene.metric(OPEN).await, 2);
    scene.publish("later").await;
    assert_eq!(subscriber.handled_ids(1).await, ["later"]);
    drop((quiet, subscriber, unused));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_subscriber_that_a_middle_box_forgot_go_to_another() {
    let world = World::new().await;
    let program = Program::new(&world, 1_000).set("GRPC_KEEPALIVE_SECONDS", 1);
    let scene = Calls::start(world, program).await;
    let middle_box = MiddleBox::start(&scene.service.grpc).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", middle_box.address)).unwrap();
    let mut forgotten =
        Subscriber::start(&ServiceClient::new(endpoint.connect().await.unwrap()), Role::of("group")).await;
    scene.publish((0..2).map(event).collect()).await.unwrap();
    assert_eq!(forgotten.event().await.id, "event-0");
    let mut other = Subscriber::start(&scene.client, Role::of("group")).await;
    middle_box.forget.send(()).unwrap();
    let taken_over = timeout(PATIENCE, other.handled_ids(2)).await.expect("nobody waits for a subscriber that is gone");
    assert_eq!(taken_over, ["event-0", "event-1"]);
    drop((forgotten, other));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_a_load_balancer_cuts_goes_on_with_the_next_one() {
    let scene = Calls::new().await;
    let through = async |balancer: &MiddleBox| {
        let endpoint = Endpoint::from_shared(format!("http://{}", balancer.address)).unwrap();
        Subscriber::start(&ServiceClient::new(endpoint.connect().await.unwrap()), Role::of("group")).await
    };
    let first = MiddleBox::start(&scene.service.grpc).await;
    let mut subscriber = through(&first).await;
    scene.publish((0..3).map(event).collect()).await.unwrap();
    assert_eq!(subscriber.handled_ids(1).await, ["event-0"]);
    assert_eq!(subscriber.event().await.id, "event-1");
    drop(first);
    assert!(subscriber.event_or_end().await.is_none());
    let second = MiddleBox::start(&scene.service.grpc).await;
    // The event in flight comes again; the acked one may, if the cut came before its ack was written down.
    let mut subscriber = through(&second).await;
    let mut ids = subscriber.handled_ids(2).await;
    if ids[0] == "event-0" {
        ids.remove(0);
        ids.extend(subscriber.handled_ids(1).await);
    }
    assert_eq!(ids, ["event-1", "event-2"]);
    drop(subscriber);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_message_does_not_come_is_ended() {
    let scene = Scene::new(&[("GRPC_KEEPALIVE_SECONDS", "1")]).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    // A message of five bytes is announced, and one of them comes.
    let begun =
        futures::stream::iter([Ok::<_, std::io::Error>(&b"\0\0\0\0\x05\n"[..])]).chain(futures::stream::pending());
    let call = client.post(format!("{}/freym.streams.management.Service/GetEvent", scene.service.grpc));
    let call = call.header("content-type", "application/grpc").header("te", "trailers");
    let asking = call.body(reqwest::Body::wrap_stream(begun)).send();
    let answer = timeout(PATIENCE, asking).await.expect("the call is ended").unwrap();
    let deadline_exceeded = (tonic::Code::DeadlineExceeded as i32).to_string();
    assert_eq!(answer.headers()["grpc-status"], deadline_exceeded.as_str(), "{answer:?}");
    scene.finish().await;
}
