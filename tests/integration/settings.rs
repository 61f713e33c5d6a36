//! Settings are taken as an operator gives them: from files, with what editors and shells add; mistakes are named.

use crate::support::{Program, Service, World, import, old_event, settings};

/// A # ends an address, so that requests for objects of this bucket would be about another bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_has_no_name_is_refused_before_anything_is_asked() {
    let mut world = World::new().await;
    let own = world.variables().into_iter().find(|(name, _)| *name == "S3_BUCKET").unwrap().1;
    for name in [format!("{own}#2"), format!("{own}?versions"), format!("{own}/other"), "..".to_owned()] {
        let said = Program::new(&world, 3).set("S3_BUCKET", &name).run(&["archive"]).await.failed();
        assert!(said.contains("S3_BUCKET") && said.contains(&name), "{said}");
    }
    assert_eq!(world.proxy.take_seen(), []);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_come_from_files_and_are_never_said() {
    let mut world = World::new().await;
    let mut program = Program::bare().set("STREAMS_ARCHIVE", "true").set("LOG_LEVEL", "debug");
    let files = [
        ("POSTGRES_CONNECTION", "POSTGRES_CONNECTION_FILE"),
        ("S3_ACCESS_KEY", "S3_ACCESS_KEY_FILE"),
        ("S3_SECRET_KEY", "S3_SECRET_KEY_FILE"),
    ];
    let mut secrets = Vec::new();
    for (name, value) in world.variables() {
        program = match files.iter().find(|(secret, _)| *secret == name) {
            Some((_, file)) => {
                let path = program.write(name, format!("{value}\n"));
                secrets.push(value);
                program.set(file, path.display())
            }
            None => program.set(name, value),
        };
    }
    let ended = program.run(&["archive"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = [ended.errors.join("\n"), ended.output].concat();
    assert!(said.contains("archived 0 events") && !said.contains(&secrets[2]), "{said}");
    let twice = program.set("S3_SECRET_KEY", "hunter2").run(&["archive"]).await;
    assert!(twice.errors.join("\n").contains("S3_SECRET_KEY_FILE are both set"), "{twice:?}");
    assert!(!twice.errors.join("\n").contains("hunter2"), "{twice:?}");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_variables_is_taken_as_it_stands() {
    let mut world = World::new().await;
    let lines: Vec<String> = world
        .variables()
        .into_iter()
        .map(|(name, value)| match name {
            "S3_SECRET_KEY" => format!("{name}=pa$$word#1${{HOME}}"),
            _ => format!("{name}={value}"),
        })
        .collect();
    let program = Program::bare();
    let with = |more: &str| program.write(".env", format!("{}\r\n# the end\r\n{more}", lines.join("\r\n")));
    with("STREAMS_ARCHVE=true\nHTTP_PROXY=http://127.0.0.1:1\n");
    let ended = program.run(&["status"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for warning in ["STREAMS_ARCHIVE is one", "HTTP_PROXY is in .env and is not read"] {
        assert!(ended.errors.iter().any(|line| line.contains(warning)), "{ended:?}");
    }
    for wrong in ["hunter2", "S3_CACHE_BYTES=1 # hunter2", "S3_SECRET_KEY=hunter2"] {
        with(wrong);
        let said = program.run(&["status"]).await.failed();
        assert!(said.contains(&format!(".env, line {}: ", lines.len() + 2)) && !said.contains("hunter2"), "{said}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_to_the_disk() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let said = Program::new(&world, 3).without_files().run(&["archive"]).await.succeeded();
    assert!(said.starts_with("archived 3 events"), "{said}");
    let service = Service::start(Program::new(&world, 3).without_files()).await;
    assert_eq!(reqwest::get(format!("{}/ready", service.http)).await.unwrap().status(), 200);
    service.finish().await;
    world.audit().await;
}
