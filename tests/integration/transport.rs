//! A bucket is reached over TLS, at addresses of IPv6, through proxies, and with its name in the path or in the host.

use std::net::Ipv6Addr;

use crate::support::{Program, Proxy, TlsFront, Validity, World, import, old_event, settings};

/// An address at which nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1";

async fn world_with_events() -> World {
    let world = World::new().await;
    import(&world.store(settings(3)), &world.log(), (0..3).map(old_event)).await;
    world
}

async fn archives(program: Program) {
    let said = program.run(&["archive"]).await.succeeded();
    assert!(said.starts_with("archived 3 events"), "{said}");
}

async fn fails(program: Program, words: &[&str]) {
    let line = program.run(&["archive"]).await.failed();
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_ca_is_trusted_if_it_is_told() {
    let mut world = world_with_events().await;
    let front = TlsFront::start(world.proxy.address(), Validity::Now).await;
    let program = || Program::new(&world, 3).set("S3_ENDPOINT", front.endpoint()).set("S3_SSL", true);
    fails(program(), &["S3_ENDPOINT", "SSL_CERT_FILE"]).await;
    let trusting = || {
        let program = program();
        let ca = program.write("ca.pem", &front.ca);
        program.set("SSL_CERT_FILE", ca.display())
    };
    let other_name = front.endpoint().replace("localhost", "127.0.0.1");
    fails(trusting().set("S3_ENDPOINT", other_name), &["another name than S3_ENDPOINT"]).await;
    let expired = TlsFront::start(world.proxy.address(), Validity::Past).await;
    let program = program().set("S3_ENDPOINT", expired.endpoint());
    let ca = program.write("ca.pem", &expired.ca);
    fails(program.set("SSL_CERT_FILE", ca.display()), &["has to be renewed"]).await;
    archives(trusting()).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_plain_text_are_told_from_each_other() {
    let mut world = world_with_events().await;
    let front = TlsFront::start(world.proxy.address(), Validity::Now).await;
    let plain = Program::new(&world, 3).set("S3_ENDPOINT", world.server_address()).set("S3_SSL", true);
    fails(plain, &["S3_ENDPOINT", "S3_SSL=false"]).await;
    fails(Program::new(&world, 3).set("S3_ENDPOINT", front.endpoint()), &["S3_ENDPOINT", "S3_SSL=true"]).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_be_of_ipv6() {
    let mut world = world_with_events().await;
    let proxy = Proxy::start_on(Ipv6Addr::LOCALHOST.into(), world.proxy.address()).await;
    let endpoint = proxy.address().to_string();
    assert!(endpoint.starts_with("[::1]:"), "{endpoint}");
    archives(Program::new(&world, 3).set("S3_ENDPOINT", endpoint)).await;
    assert!(!proxy.take_seen().is_empty());
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_used_unless_it_is_not_to_be() {
    let mut world = world_with_events().await;
    fails(Program::new(&world, 3).set("HTTP_PROXY", NOWHERE), &["S3_ENDPOINT", "does not answer"]).await;
    world.proxy.take_seen();
    let endpoint = "s3.example.com:9000";
    let through = Program::new(&world, 3).set("S3_ENDPOINT", endpoint);
    let through =
        through.set("HTTP_PROXY", format!("http://{}", world.proxy.address())).set("S3_ADDRESSING", "virtual");
    archives(through).await;
    let seen = world.proxy.take_seen();
    let bucket = world.variables().into_iter().find(|(name, _)| *name == "S3_BUCKET").unwrap().1;
    let host = format!("{bucket}.{endpoint}");
    assert!(seen.iter().all(|request| request.header("host") == Some(&host)), "{seen:?}");
    assert!(seen.iter().all(|request| request.target.starts_with(&format!("http://{host}/"))), "{seen:?}");
    import(&world.store(settings(3)), &world.log(), (3..6).map(old_event)).await;
    archives(Program::new(&world, 3).set("HTTP_PROXY", NOWHERE).set("NO_PROXY", "example.com,127.0.0.1")).await;
    world.audit().await;
}
