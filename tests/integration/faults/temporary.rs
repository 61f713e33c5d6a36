//! Postgres may answer without doing for now what it is asked: no such answer is taken for a refusal, everything that
//! is possible goes on, and the rest does once it can.

use coldstream::store::Error;
use futures::future::join_all;
use reqwest::StatusCode;
use tonic::Code;
use url::Url;
use uuid::Uuid;

use crate::grpc::{self, TENANT, TOPIC, ids};
use crate::support::{
    Program, StatementFate, World, archive, edit_request, event, everything, import, in_order, old_event, publish,
    read_all, settings,
};

/// Makes sessions that begin from now on take changes, or none.
async fn set_read_only(world: &World, is_read_only: bool) {
    let change = match is_read_only {
        true => "SET default_transaction_read_only = on",
        false => "RESET default_transaction_read_only",
    };
    let change = format!("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {change}', current_database()); END $$");
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&world.sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_database_is_read_and_takes_changes_once_it_can() {
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let before = world.store_behind(&postgres, settings(3));
    import(&before, &log, (0..3).map(old_event)).await;
    assert_eq!(archive(&before).await, 3);
    import(&before, &log, (3..6).map(old_event)).await;

    set_read_only(&world, true).await;
    postgres.sever();
    // A process that starts now has nothing to migrate.
    let started = world.store_behind(&postgres, settings(3));
    started.migrate().await.unwrap();
    for store in [&before, &started] {
        assert_eq!(read_all(store, &log).await.len(), 6);
        let outcomes = [
            store.publish(&log, vec![event(6)]).await.map(drop),
            store.edit(&log, "event-3", &edit_request(r#"{"name":"edited"}"#)).await.map(drop),
            store.edit(&log, "event-0", &edit_request(r#"{"name":"edited"}"#)).await.map(drop),
            store.rename_type(log.topic(), "type-3", "type-x").await,
            store.archive(|_, _| {}).await.map(drop),
            store.check().await,
        ];
        for outcome in outcomes {
            assert!(matches!(&outcome, Err(Error::Unavailable(why)) if why.contains("read-only")), "{outcome:?}");
        }
        assert_eq!(read_all(store, &log).await.len(), 6, "reads go on");
    }

    // The existing connections stay read-only, as those to an old primary do: they are not used any more.
    set_read_only(&world, false).await;
    for (number, store) in [&before, &started].into_iter().enumerate() {
        // Each failure leaves one read-only connection fewer.
        for attempt in 1.. {
            match store.publish(&log, vec![event(6 + number)]).await {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, Error::Unavailable(_)) && attempt < 10, "{error}"),
            }
        }
    }
    assert_eq!(read_all(&before, &log).await.len(), 8);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_on_a_read_only_database_says_so_and_answers_reads() {
    let world = World::new().await;
    let program = Program::new(&world, 1_000_000);
    let calm = grpc::Scene::start(world, program).await;
    calm.publish(vec![grpc::event(0)]).await.unwrap();
    let grpc::Scene { world, service, .. } = calm;
    service.terminate();
    service.end().await;
    set_read_only(&world, true).await;
    let program = Program::new(&world, 1_000_000);
    let scene = grpc::Scene::start(world, program).await;

    assert_eq!(scene.publish(vec![grpc::event(1)]).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(ids(&scene.page(&[], (0, 10)).await.unwrap()), ["event-0"]);
    let url = |path: &str| format!("{}{path}", scene.service.http);
    let events = format!("/v1/topics/{TOPIC}/events?tenant={TENANT}");
    let body = r#"{"events":[{"id":"event-1","type":"a","payload":{}}]}"#;
    let published = reqwest::Client::new().post(url(&events)).body(body).send().await.unwrap();
    assert_eq!(published.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(published.headers().contains_key("retry-after"));
    let ready = reqwest::get(url("/ready")).await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.text().await.unwrap().contains("read-only"));
    assert_eq!(reqwest::get(url(&events)).await.unwrap().status(), StatusCode::OK);

    set_read_only(&scene.world, false).await;
    // Each failure leaves one read-only connection fewer.
    for attempt in 1.. {
        match scene.publish(vec![grpc::event(1)]).await {
            Ok(()) => break,
            Err(status) => assert!(status.code() == Code::Unavailable && attempt < 10, "{status}"),
        }
    }
    assert_eq!(reqwest::get(url("/ready")).await.unwrap().status(), StatusCode::OK);
    scene.finish().await;
}

/// The server shuts down, comes up, is out of connections, memory or disk, or cancels a statement; it was locked or
/// idle for too long; or a pooler has lost its server or our statements.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_no_refusal() {
    let codes = [
        "57P01", "57P02", "57P03", "57P05", "53300", "53200", "53100", "57014", "55P03", "55006", "25006", "25P03",
        "08006", "08P01", "26000", "42P05", "0A000", "58030", "28P01", "3D000",
    ];
    let mut world = World::new().await;
    let (postgres, log) = (world.postgres_proxy().await, world.log());
    let store = world.store_behind(&postgres, settings(100));
    publish(&store, &log, vec![old_event(0)]).await;
    for (number, code) in codes.into_iter().enumerate() {
        postgres.script(move |_| StatementFate::Refuse(code));
        let (published, read) = (store.publish(&log, vec![old_event(number + 1)]).await, store.status().await);
        assert!(matches!(published, Err(Error::Unavailable(_))), "{code}: {published:?}");
        assert!(matches!(read, Err(Error::Unavailable(_))), "{code}");
        postgres.heal();
        publish(&store, &log, vec![old_event(number + 1)]).await;
    }
    assert_eq!(read_all(&store, &log).await, in_order(0..codes.len() + 1));
    world.audit().await;
}

/// Readers have all connections that the server gives, and give one up for publishers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_get_their_share_of_too_few_connections() {
    const CONNECTIONS: u32 = 4;
    let mut world = World::new().await;
    let log = world.log();
    publish(&world.store(settings(100)), &log, (0..10).map(event).collect()).await;
    let role = format!("few_{}", Uuid::new_v4().simple());
    let statements = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT {CONNECTIONS};
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&world.sql).await.unwrap();
    let mut url: Url = world.url().parse().unwrap();
    url.set_username(&role).and_then(|()| url.set_password(Some("few"))).unwrap();
    let store = world.store_of(url.as_str(), settings(100));
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let (store, log) = (store.clone(), log.clone());
            tokio::spawn(async move {
                loop {
                    drop(store.read(&log, &everything()).await);
                }
            })
        })
        .collect();
    for number in 10..40 {
        publish(&store, &log, vec![event(number)]).await;
    }
    for reader in readers {
        reader.abort();
        assert!(reader.await.unwrap_err().is_cancelled());
    }
    drop(store);
    // Connections at rest make room as well.
    let (store, all) = (world.store_of(url.as_str(), settings(100)), everything());
    join_all((0..10).map(|_| store.read(&log, &all))).await;
    publish(&store, &log, vec![event(40)]).await;
    drop(store);
    let statements = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&world.sql).await.unwrap();
    world.audit().await;
}
