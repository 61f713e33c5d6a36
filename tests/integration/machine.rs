//! Credentials come from the machine where no keys are set: from an instance's role, a container's, or a web identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;

use crate::support::{Program, TlsFront, Validity, World, import, old_event, settings};

/// A machine that gives other keys each time it is asked, up to a number of times.
#[derive(Clone)]
struct Machine {
    given: Arc<AtomicUsize>,
    most: usize,
    valid_for: Duration,
}

/// Keys that are still good, and keys that have to be replaced at once.
const HOUR: Duration = Duration::from_secs(3_600);
const NO_TIME: Duration = Duration::ZERO;

impl Machine {
    async fn start(valid_for: Duration, most: usize) -> (Machine, SocketAddr) {
        let machine = Machine { given: Arc::default(), most, valid_for };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, machine.clone().routes()).into_future());
        (machine, address)
    }

    fn routes(self) -> Router {
        let (instance, container, identity) = (self.clone(), self.clone(), self);
        Router::new()
            .route("/latest/api/token", put(|| async { "a token" }))
            .route("/latest/meta-data/iam/security-credentials/", get(|| async { "the-role" }))
            .route("/latest/meta-data/iam/security-credentials/the-role", get(|| async move { instance.json() }))
            .route(
                "/container",
                get(|headers: HeaderMap| async move {
                    if headers["authorization"] == "container-token" {
                        container.json()
                    } else {
                        Err(StatusCode::FORBIDDEN)
                    }
                }),
            )
            .route("/", post(|| async move { identity.xml() }))
    }

    /// Returns the number of the next keys, and when they expire.
    fn next(&self) -> Result<(usize, String), StatusCode> {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let expires_at = OffsetDateTime::now_utc() + self.valid_for;
        if number < self.most { Ok((number, expires_at.format(&Rfc3339).unwrap())) } else { Err(StatusCode::NOT_FOUND) }
    }

    fn json(&self) -> Result<String, StatusCode> {
        let (number, expires_at) = self.next()?;
        Ok(format!(
            r#"{{"Code":"Success","AccessKeyId":"KEY{number}","SecretAccessKey":"secret","Token":"session-{number}","Expiration":"{expires_at}"}}"#
        ))
    }

    fn xml(&self) -> Result<String, StatusCode> {
        let (number, expires_at) = self.next()?;
        Ok(format!(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>KEY{number}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
             <SessionToken>session-{number}</SessionToken><Expiration>{expires_at}</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ))
    }
}

async fn world_with_events() -> World {
    let world = World::new().await;
    import(&world.store(settings(3)), &world.log(), (0..3).map(old_event)).await;
    world
}

fn without_keys(world: &World) -> Program {
    Program::new(world, 3).unset("S3_ACCESS_KEY").unset("S3_SECRET_KEY")
}

/// Archives, and returns the keys that signed the requests.
async fn signing_keys(world: &World, program: Program) -> Vec<String> {
    world.proxy.take_seen();
    let said = program.run(&["archive"]).await.succeeded();
    assert!(said.starts_with("archived 3 events"), "{said}");
    let seen = world.proxy.take_seen();
    let keys = seen.iter().map(|request| {
        let authorization = request.header("authorization").unwrap();
        let key = authorization.split_once("Credential=").unwrap().1.split_once('/').unwrap().0;
        assert_eq!(request.header("x-amz-security-token"), Some(&*key.replace("KEY", "session-")));
        assert!(authorization.contains("x-amz-security-token"), "the token is signed: {authorization}");
        key.to_owned()
    });
    let mut keys: Vec<String> = keys.collect();
    keys.dedup();
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_gives_credentials() {
    let mut world = world_with_events().await;
    let (machine, address) = Machine::start(HOUR, usize::MAX).await;
    let program = without_keys(&world).set("AWS_METADATA_ENDPOINT", format!("http://{address}"));
    assert_eq!(signing_keys(&world, program).await, ["KEY0"]);
    assert_eq!(machine.given.load(Ordering::Relaxed), 1);
    world.audit().await;
}

/// Credentials are renewed before they expire; the old ones stay in use where that cannot be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_renewed() {
    let mut world = world_with_events().await;
    let (_, address) = Machine::start(NO_TIME, 5).await;
    let program = without_keys(&world).set("AWS_METADATA_ENDPOINT", format!("http://{address}"));
    assert_eq!(signing_keys(&world, program).await, ["KEY0", "KEY1", "KEY2", "KEY3", "KEY4"]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_gives_credentials() {
    let mut world = world_with_events().await;
    let (_, address) = Machine::start(HOUR, usize::MAX).await;
    let program = without_keys(&world).set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/container"));
    let token = program.write("token", "container-token");
    let program = program.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display());
    assert_eq!(signing_keys(&world, program).await, ["KEY0"]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_identity_gives_credentials() {
    let mut world = world_with_events().await;
    let (_, address) = Machine::start(HOUR, usize::MAX).await;
    let front = TlsFront::start(address, Validity::Now).await;
    let program = without_keys(&world).set("AWS_ENDPOINT_URL_STS", format!("https://{}", front.endpoint()));
    let (ca, token) = (program.write("ca.pem", &front.ca), program.write("token", "an identity"));
    let program = program.set("SSL_CERT_FILE", ca.display()).set("AWS_WEB_IDENTITY_TOKEN_FILE", token.display());
    let program = program.set("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/events");
    assert_eq!(signing_keys(&world, program).await, ["KEY0"]);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_gives_no_credentials_is_said_soon() {
    let mut world = world_with_events().await;
    let nowhere = without_keys(&world).set("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let silent = without_keys(&world).set("AWS_METADATA_ENDPOINT", format!("http://{}", silent.local_addr().unwrap()));
    for program in [nowhere, silent] {
        let ended = tokio::time::timeout(Duration::from_secs(30), program.run(&["archive"])).await;
        let line = ended.expect("the process ends by itself").failed();
        assert!(line.contains("S3_ACCESS_KEY and S3_SECRET_KEY are not set, and this machine gives no"), "{line}");
    }
    world.audit().await;
}
