//! A client that comes between two processes on one address is not refused, since it would give up.

use std::net::SocketAddr;
use std::time::Duration;

use coldstream::api::proto::GetEventRequest;
use coldstream::api::proto::service_client::ServiceClient;
use coldstream::event::Log;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::Code;

use crate::grpc::connect;
use crate::support::{Kind, Program, Role, Service, Subscriber, World, archive, import, old_event, settings};

/// Less than the second after which a client's system tries to connect again.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_while_a_service_ends_is_neither_refused_nor_accepted() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(1)), Log::new("", "orders").unwrap());
    import(&store, &log, [old_event(0)]).await;
    archive(&store).await;
    let service = Service::start(Program::new(&world, 1)).await;
    let client = ServiceClient::new(connect(&service).await);
    let mut subscriber = Subscriber::start(&client, Role::topics("billing", &["invoices"])).await;
    let gate = world.proxy.hold_first(Kind::Get);
    let mut reader = client.clone();
    let request = GetEventRequest { tenant_id: String::new(), topic: "orders".into(), id: "event-0".into() };
    let asking = tokio::spawn(async move { reader.get_event(request).await });
    gate.arrival().await;

    service.terminate();
    assert_eq!(subscriber.next().await.unwrap_err().code(), Code::Unavailable);
    let address: SocketAddr = service.grpc.trim_start_matches("http://").parse().unwrap();
    let coming_back = timeout(QUIET, TcpStream::connect(address)).await;
    assert!(coming_back.is_err(), "{coming_back:?}");
    gate.open();
    assert_eq!(asking.await.unwrap().unwrap().into_inner().id, "event-0");
    let ended = service.end().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    world.audit().await;
}

#[tokio::test]
async fn a_client_that_comes_before_a_service_is_ready_is_not_refused() {
    let mut world = World::new().await;
    let silent_postgres = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let program = Program::new(&world, 1)
        .set("POSTGRES_CONNECTION", format!("postgres://nobody@{}/nothing", silent_postgres.local_addr().unwrap()))
        .set("HTTP_ADDR", "127.0.0.1:0")
        .set("GRPC_ADDR", address);
    let starting = program.start(&["serve"]);
    let _asked = silent_postgres.accept().await.unwrap();
    TcpStream::connect(address).await.unwrap();
    starting.kill().await;
    world.audit().await;
}
