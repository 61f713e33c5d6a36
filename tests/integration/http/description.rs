//! The API is what `/openapi.json` says of it: schemathesis makes up requests of every kind from that, and checks the
//! answers.

use std::process::Stdio;

use super::Scene;
use crate::support::python;

/// The package and its dependencies take 94 MB.
const PACKAGES: [&str; 1] = ["schemathesis==4.32.5"];
const FOLDER: &str = "schemathesis-4.32.5";
const EXAMPLES_OF_EACH_OPERATION: &str = "20";
/// A hook for what JSON Schema cannot say of a publication: personal fields are fields of the payload.
const HOOKS: &str = "
import schemathesis

@schemathesis.hook
def before_call(context, case, **kwargs):
    body = case.body
    if isinstance(body, dict) and isinstance(body.get('events'), list):
        for event in body['events']:
            if isinstance(event, dict) and isinstance(event.get('gdpr'), dict) and isinstance(event.get('payload'), dict):
                for name in event['gdpr']:
                    event['payload'].setdefault(name, 'personal')
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_is_true() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hooks.py"), HOOKS).unwrap();
    let url = format!("{}/openapi.json", scene.service.http);
    let outcome = tokio::task::spawn_blocking(move || {
        let mut command = python::with(FOLDER, &PACKAGES);
        command.args(["-m", "schemathesis.cli", "run", &url, "--checks", "all", "--seed", "18", "--no-color"]);
        command.args(["--max-examples", EXAMPLES_OF_EACH_OPERATION, "--generation-database", "none"]);
        command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", folder.path()).current_dir(folder.path());
        command.stdin(Stdio::null()).output().unwrap()
    });
    let outcome = outcome.await.unwrap();
    let said = String::from_utf8_lossy(&outcome.stdout);
    assert!(outcome.status.success(), "{said}{}", String::from_utf8_lossy(&outcome.stderr));
    scene.finish().await;
}
