//! Coldstream meets what buckets demand of their writers, and says what to do where they refuse.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    Fate, Kind, MARKER, Program, Service, World, archive, edit, import, old_event, read_all, settings,
};

/// `archive` fails at each of these answers, and says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_what_to_do() {
    let mut world = World::new().await;
    for (status, body, words) in [
        (
            301,
            "<Error><Code>PermanentRedirect</Code><Region>eu-central-1</Region></Error>",
            ["S3_REGION=eu-central-1", "301"],
        ),
        (
            400,
            "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>",
            ["S3_REGION=eu-west-1", "400"],
        ),
        (403, "<Error><Code>RequestTimeTooSkewed</Code></Error>", ["clock", "RequestTimeTooSkewed"]),
        (403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", ["S3_SECRET_KEY", "SignatureDoesNotMatch"]),
        (403, "<Error><Code>InvalidAccessKeyId</Code></Error>", ["S3_ACCESS_KEY", "InvalidAccessKeyId"]),
        (403, "<Error><Code>ExpiredToken</Code></Error>", ["have expired", "ExpiredToken"]),
        (403, "<Error><Code>AccessDenied</Code></Error>", ["s3:ListBucket is not granted", "AccessDenied"]),
        (400, "Client sent an HTTP request to an HTTPS server.", ["S3_SSL=true", "400"]),
    ] {
        world.proxy.script(move |_| Fate::Answer(status, body));
        let line = Program::new(&world, 3).run(&["archive"]).await.failed();
        assert!(words.iter().all(|word| line.contains(word)), "{body}: {line}");
    }
    world.proxy.heal();
    world.audit().await;
}

/// An operator who may not make a bucket is told so, and so is one who wants a name that a stranger has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_made_is_said() {
    let mut world = World::new().await;
    for (status, body, words) in [
        (403, "<Error><Code>AccessDenied</Code></Error>", "s3:CreateBucket is not granted"),
        (409, "<Error><Code>BucketAlreadyExists</Code></Error>", "choose another S3_BUCKET"),
    ] {
        let mut lists = 0;
        world.proxy.script(move |request| match request.kind {
            Kind::ListObjects => {
                lists += 1;
                let missing = Fate::Answer(404, "<Error><Code>NoSuchBucket</Code></Error>");
                if lists == 1 { missing } else { Fate::Answer(403, "<Error><Code>AccessDenied</Code></Error>") }
            }
            _ => Fate::Answer(status, body),
        });
        let line = Program::new(&world, 3).run(&["archive"]).await.failed();
        assert!(line.contains(words), "{line}");
    }
    world.proxy.heal();
    world.audit().await;
}

/// The bucket has a default retention or a policy that demands a checksum of whatever becomes an object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_bears_a_checksum() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    for (round, checksum) in ["sha256", "md5"].into_iter().enumerate() {
        import(&store, &log, (round * 3..round * 3 + 3).map(old_event)).await;
        let header = if checksum == "md5" { "content-md5" } else { "x-amz-checksum-sha256" };
        world.proxy.script(move |request| {
            let is_content =
                matches!(request.kind, Kind::PutPart) || request.kind == Kind::Other && request.method == "PUT";
            let refusal = Fate::Answer(
                400,
                "<Error><Code>InvalidRequest</Code><Message>a checksum is required</Message></Error>",
            );
            if is_content && request.header(header).is_none() { refusal } else { Fate::Pass }
        });
        let said = Program::new(&world, 3).set("S3_CHECKSUM", checksum).run(&["archive"]).await.succeeded();
        assert!(said.starts_with("archived 3 events"), "{said}");
    }
    let refused = Program::new(&world, 3).set("S3_CHECKSUM", "off").run(&["archive"]).await;
    let warned =
        refused.errors.iter().any(|line| line.contains("a checksum is required") && line.contains("S3_CHECKSUM"));
    assert!(warned, "{refused:?}");
    world.proxy.heal();
    assert_eq!(read_all(&store, &log).await.len(), 6);
    world.audit().await;
}

/// A server that does not know one checksum is sent the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_checksum_is_tried_where_one_is_refused() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    world.proxy.script(move |request| {
        let names = ["x-amz-checksum-sha256", "x-amz-checksum-algorithm"];
        if names.iter().all(|name| request.header(name).is_none()) {
            return Fate::Pass;
        }
        counted.fetch_add(1, Ordering::Relaxed);
        Fate::Answer(501, "<Error><Code>NotImplemented</Code></Error>")
    });
    let ended = Program::new(&world, 3).run(&["archive"]).await;
    assert!(ended.code == Some(0) && ended.output.starts_with("archived 3 events"), "{ended:?}");
    assert!(ended.errors.iter().any(|line| line.contains("Content-MD5")), "{ended:?}");
    // The refused requests are those that write the marker, with a condition and without one.
    assert_eq!(refused.load(Ordering::Relaxed), 2);
    world.proxy.heal();
    world.audit().await;
}

/// Every object is written with the encryption headers, and archives alone with the storage class, whether they are new
/// or rewritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_says_how_it_is_kept() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let headers = |kind: Kind, is_archive: bool| match kind {
        Kind::StartUpload if is_archive => {
            vec![("x-amz-server-side-encryption", "aws:kms"), ("x-amz-storage-class", "STANDARD_IA")]
        }
        Kind::StartUpload | Kind::Other => vec![("x-amz-server-side-encryption", "aws:kms")],
        _ => vec![],
    };
    world.proxy.script(move |request| {
        let is_archive = request.target.contains(".json.gz");
        let expected = headers(request.kind, is_archive);
        let is_said = expected.iter().all(|(name, value)| request.header(name) == Some(value));
        let has_class = request.header("x-amz-storage-class").is_some();
        if is_said && has_class == expected.iter().any(|(name, _)| *name == "x-amz-storage-class") {
            Fate::Pass
        } else {
            Fate::Answer(403, "<Error><Code>AccessDenied</Code></Error>")
        }
    });
    let program = || {
        let program = Program::new(&world, 3).set("S3_SSE", "aws:kms").set("S3_SSE_KMS_KEY_ID", "alias/events");
        program.set("S3_STORAGE_CLASS", "STANDARD_IA")
    };
    assert!(program().run(&["archive"]).await.succeeded().starts_with("archived 3 events"));
    edit(&store, &log, "event-1", r#"{"name":"edited"}"#).await;
    program().run(&["archive"]).await.succeeded();
    let without = Program::new(&world, 3).run(&["archive"]).await;
    let warned = without.errors.iter().any(|line| line.contains("s3:PutObject") && line.contains("S3_SSE"));
    assert!(warned, "{without:?}");
    world.proxy.heal();
    world.audit().await;
}

/// A probe at each start would add an object that nobody may delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_probed_where_it_could_not_be_deleted() {
    let mut world = World::new().await;
    world.proxy.script(|request| match request.kind {
        Kind::Delete | Kind::DeleteVersion => Fate::Answer(403, "<Error><Code>AccessDenied</Code></Error>"),
        _ => Fate::Pass,
    });
    for right in ["s3:DeleteObject is not granted", "s3:DeleteObjectVersion is not granted"] {
        check_unprobed(&world, right).await;
        world.bucket.keep_versions().await;
    }
    world.proxy.heal();
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_probed_where_everything_is_retained() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    world.bucket.retain_all().await;
    check_unprobed(&world, "retains whatever is written").await;
    import(&store, &log, (0..3).map(old_event)).await;
    assert!(Program::new(&world, 3).run(&["archive"]).await.succeeded().starts_with("archived 3 events"));
    world.audit().await;
}

/// Checks that a service starts, says why it did not probe the bucket, and leaves no object but its marker.
async fn check_unprobed(world: &World, why: &str) {
    let service = Service::start(Program::new(world, 1_000)).await;
    service.terminate();
    let ended = service.end().await;
    let said: Vec<_> = ended.errors.iter().filter(|line| line.contains("could not be probed")).collect();
    assert!(ended.code == Some(0) && said.len() == 1 && said[0].contains(why), "{ended:?}");
    let left = world.bucket.version_keys().await;
    assert!(left.iter().all(|key| key == MARKER), "{left:?}");
}

/// Keys that are revoked while the service runs are an outage of the bucket, and the service says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_revoked_cost_no_hot_events() {
    let mut world = World::new().await;
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..4).map(old_event)).await;
    assert_eq!(archive(&store).await, 3);
    let service = Service::start(Program::new(&world, 1_000)).await;
    let status = async |path: &str| reqwest::get(format!("{}{path}", service.http)).await.unwrap().status().as_u16();
    let event = |number| format!("/v1/topics/orders/events/event-{number}?tenant=acme");
    world.proxy.script(|_| Fate::Answer(403, "<Error><Code>InvalidAccessKeyId</Code></Error>"));
    assert_eq!([status("/ready").await, status(&event(3)).await, status(&event(1)).await], [503, 200, 503]);
    world.proxy.heal();
    assert_eq!([status("/ready").await, status(&event(3)).await, status(&event(1)).await], [200, 200, 200]);
    service.finish().await;
    world.audit().await;
}
