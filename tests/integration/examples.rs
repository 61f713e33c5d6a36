//! The programs under `examples/`, run as their documents say: against a service, with packages from PyPI and npm.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coldstream::embedded::keeper;
use coldstream::store::Store;
use tempfile::TempDir;

use crate::support::{Program, Service, World, archive, import, old_event, older_than, python, settings};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const REQUIREMENTS: &str = include_str!("../../examples/consumer-python/requirements.txt");
const PACKAGE: &str = include_str!("../../examples/consumer-node/package.json");

const ARCHIVED: usize = 5;
const EVENTS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    world: World,
    store: Arc<Store>,
    service: Service,
}

impl Scene {
    async fn new() -> Scene {
        let world = World::new().await;
        let store = world.store(settings(ARCHIVED as u64));
        let service = Service::start(Program::new(&world, 1_000)).await;
        Scene { world, store, service }
    }

    /// Runs a consumer of the log until it has printed and acknowledged every event, the archived ones first.
    async fn is_consumed_by(&self, mut consumer: Command) {
        import(&self.store, &self.world.log(), (0..EVENTS).map(old_event)).await;
        assert_eq!(archive(&self.store).await, ARCHIVED as i64);
        let address = self.service.grpc.trim_start_matches("http://");
        consumer.args([address, "billing", "orders"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut consumer = Running(keeper::spawn(consumer).expect("the consumer can be run"));
        let output = BufReader::new(consumer.0.stdout.take().expect("it was piped"));
        let lines = move || output.lines().map_while(Result::ok).take(EVENTS).collect::<Vec<_>>();
        let lines = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(lines)).await;
        let lines = lines.expect("the events come").expect("the reader does not panic");
        let printed: Vec<String> = lines.iter().map(|line| line.split(' ').take(3).collect()).collect();
        let expected: Vec<String> =
            (0..EVENTS).map(|number| format!("ordersevent-{number}type-{}", number % 4)).collect();
        assert_eq!(printed, expected, "{lines:?}");
        self.world.until("SELECT EXISTS (SELECT FROM group_progress WHERE position = 8)", PATIENCE).await;
    }

    async fn finish(mut self) {
        self.service.finish().await;
        self.world.expire_leases().await;
        self.world.audit().await;
    }
}

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A copy of an example with the proto where it looks for it: what it needs is put beside its files.
fn copied(example: &str, files: &[&str]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("examples").join(example);
    fs::create_dir_all(&copy).unwrap();
    fs::create_dir(folder.path().join("proto")).unwrap();
    let of_repository = Path::new(REPOSITORY);
    for file in files {
        fs::copy(of_repository.join("examples").join(example).join(file), copy.join(file)).unwrap();
    }
    fs::copy(of_repository.join("proto/streams.proto"), folder.path().join("proto/streams.proto")).unwrap();
    (folder, copy)
}

/// Runs a command to its end, and returns its output.
fn said_by(what: &str, command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{what}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tour_over_http_reads_the_same_before_and_after_archiving() {
    let scene = Scene::new().await;
    let url = scene.service.http.clone();
    let tour = move || {
        let mut command = Command::new("bash");
        command.arg(format!("{REPOSITORY}/examples/curl/tour.sh")).env("COLDSTREAM_URL", &url);
        said_by("the tour needs bash and curl", &mut command)
    };
    let before = tokio::task::spawn_blocking(tour.clone()).await.unwrap();
    assert!(before.contains(r#""customer":"Eva","price":64.30"#) && before.contains(r#""is_new":true"#), "{before}");
    assert_eq!(archive(&scene.world.store(older_than(0, 2))).await, 2);
    let after = tokio::task::spawn_blocking(tour).await.unwrap();
    assert!(!after.contains("Eva") && !after.contains(r#""is_new":true"#), "{after}");
    let last = |said: &str| said.lines().last().unwrap().to_owned();
    assert!(last(&before).contains(r#""customer":"erased""#), "{before}");
    assert_eq!(last(&before), last(&after));
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_in_python_gets_every_event() {
    let scene = Scene::new().await;
    let (_folder, copy) = copied("consumer-python", &["consumer.py"]);
    let consumer = tokio::task::spawn_blocking(move || {
        let packages: Vec<&str> = REQUIREMENTS.lines().collect();
        let folder = packages.join("-").replace("==", "-");
        let mut generating = python::with(&folder, &packages);
        generating.args(["-m", "grpc_tools.protoc", "-I", "../../proto", "--python_out=.", "--grpc_python_out=."]);
        said_by("the client cannot be generated", generating.arg("streams.proto").current_dir(&copy));
        let mut consumer = python::with(&folder, &packages);
        consumer.arg("consumer.py").current_dir(&copy);
        consumer
    });
    scene.is_consumed_by(consumer.await.unwrap()).await;
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_in_node_gets_every_event() {
    let scene = Scene::new().await;
    let (_folder, copy) = copied("consumer-node", &["consumer.mjs", "package.json"]);
    let consumer = tokio::task::spawn_blocking(move || {
        symlink(node_modules(), copy.join("node_modules")).unwrap();
        let mut consumer = Command::new("node");
        consumer.arg("consumer.mjs").current_dir(&copy);
        consumer
    });
    scene.is_consumed_by(consumer.await.unwrap()).await;
    scene.finish().await;
}

/// The packages of the consumer in Node, installed once under the target folder.
fn node_modules() -> PathBuf {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(parent).unwrap();
    let lock = File::create(parent.join("consumer-node.lock")).unwrap();
    lock.lock().expect("the file system of the target folder has locks");
    let folder = parent.join("consumer-node");
    let installed = folder.join("installed.json");
    if fs::read_to_string(&installed).is_ok_and(|package| package == PACKAGE) {
        return folder.join("node_modules");
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("package.json"), PACKAGE).unwrap();
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
    said_by("the consumer in Node needs node, npm and its registry", &mut npm);
    fs::write(installed, PACKAGE).unwrap();
    folder.join("node_modules")
}

/// There may be no Go here: the names of the generated client are compared with the proto.
#[test]
fn the_consumer_in_go_names_what_the_proto_has() {
    let read = |path: &str| fs::read_to_string(Path::new(REPOSITORY).join(path)).unwrap();
    let (proto, source) = (read("proto/streams.proto"), read("examples/consumer-go/main.go"));
    let mut known: BTreeSet<String> = ["NewServiceClient", "ServiceClient"].map(str::to_owned).into();
    let mut message = "";
    for line in proto.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        let words: Vec<&str> = line.split([' ', '(']).collect();
        match words[..] {
            ["message", name, ..] => message = name,
            ["rpc" | "oneof", name, ..] => drop(known.insert(go(name))),
            [.., name, "=", _] => {
                known.extend([go(name), format!("Get{}", go(name)), format!("{message}_{}", go(name))])
            }
            _ => {}
        }
        known.insert(message.to_owned());
    }
    let identifiers = |text: &str| -> Vec<String> {
        text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').map(str::to_owned).collect()
    };
    let mut named = BTreeSet::new();
    for owner in ["streams.", "event.", "handled.", "response.", "client."] {
        named.extend(source.split(owner).skip(1).map(|rest| identifiers(rest).swap_remove(0)));
    }
    for literal in source.split("&streams.").skip(1) {
        let fields = literal.split(['{', '}']).nth(1).unwrap().split(',').filter_map(|field| field.split_once(':'));
        named.extend(fields.map(|(field, _)| field.trim().to_owned()));
    }
    let unknown: Vec<&String> = named.difference(&known).collect();
    assert!(unknown.is_empty() && named.len() > 15, "{unknown:?} of {named:?}");
}

/// The name that the generated code in Go gives to a field.
fn go(name: &str) -> String {
    let capitalised = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(capitalised).collect()
}
