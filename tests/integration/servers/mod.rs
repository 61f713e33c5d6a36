//! Every server, database and role that may be used works, and every other one is refused in one line.
//!
//! The whole suite runs on another version of Postgres, too: see `support::server_programs`.

mod maintenance;
mod tls;

use std::net::Ipv6Addr;
use std::sync::Arc;

use coldstream::database::Database;
use coldstream::event::{Event, Filter, Log, NewEvent, PositionRange};
use coldstream::store::{Query, Selection, Store};
use sqlx::{Connection, PgConnection};

use crate::support::{
    OwnPostgres, PostgresProxy, Program, World, archive, database, database_as, edit, everything, import, old_event,
    publish, read_all, settings,
};

const VERSION_MIN: i32 = 14;
/// Names whose order, or whose case, is another one in some languages.
const NAMES: [&str; 8] = ["I", "ı", "i", "İ", "Z", "Ä", "a_b", "a-b"];
const EVENTS: usize = 50;

fn named(number: usize) -> NewEvent {
    let name = |factor: usize| NAMES[number * factor % NAMES.len()];
    NewEvent {
        id: format!("{}-{number}", name(1)),
        event_type: name(3).to_owned(),
        stream: name(5).to_owned(),
        ..old_event(number)
    }
}

/// Returns all events, by every way of reading them.
async fn seen(store: &Store, log: &Log) -> Vec<Vec<Event>> {
    let mut seen = vec![read_all(store, log).await];
    for name in NAMES {
        for filter in [Filter::Types(vec![name.to_owned(), "i".to_owned()]), Filter::Stream(name.to_owned())] {
            seen.push(store.read(log, &Query { filter, ..everything() }).await.unwrap().events);
        }
    }
    for number in 0..EVENTS {
        seen.push(store.event(log, &named(number).id).await.unwrap().into_iter().collect());
    }
    seen
}

/// Takes events through their whole life in a migrated database: published, archived, their lookups merged, edited,
/// restored, archived again. The world's audit verifies it all.
async fn everything_works(mut world: World) {
    let (store, log): (Arc<Store>, Log) = (world.store(settings(4)), world.log());
    import(&store, &log, (0..EVENTS).map(named)).await;
    let before = seen(&store, &log).await;
    assert_eq!(before[0].len(), EVENTS);
    assert_eq!(archive(&store).await, 48);
    assert_eq!(seen(&store, &log).await, before);
    publish(&store, &log, (0..3).map(named).collect()).await;
    for number in [3, 49] {
        edit(&store, &log, &named(number).id, r#"{"name":"Straße \\ 'quoted' \u0001 é"}"#).await;
    }
    store.rewrite().await.unwrap();
    let edited = seen(&store, &log).await;
    assert!(edited != before && edited[0].len() == EVENTS);
    store.restore(&Selection::Range(log.clone(), PositionRange::closed(5, 20)), 0, |_| {}).await.unwrap();
    assert_eq!(seen(&store, &log).await, edited);
    assert!(archive(&store).await >= 16);
    assert_eq!(seen(&store, &log).await, edited);
    world.audit().await;
}

/// The server that the tests were told to run on may be too old.
#[tokio::test]
async fn a_server_is_taken_from_version_14_on() {
    let postgres = OwnPostgres::start().await;
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer / 10000")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let ended = Program::bare().set("POSTGRES_CONNECTION", postgres.url()).run(&["migrate"]).await;
    if version >= VERSION_MIN {
        ended.succeeded();
        return;
    }
    let line = ended.failed();
    assert!(line.contains(&format!("Postgres {version}.")) && line.contains("14 or newer"), "{line}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn encodings_but_utf8_are_refused_in_one_line() {
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252"] {
        let words = format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'");
        let database = database_as(&words).await;
        let program = Program::bare().set("POSTGRES_CONNECTION", &database.url);
        for verb in ["migrate", "status"] {
            let line = program.run(&[verb]).await.failed();
            assert!(line.contains(&format!("encoding is {encoding}: UTF8 is needed")), "{line}");
        }
    }
}

/// A server may have been built without ICU, and has databases of ICU locales from version 15 on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_collation_will_do() {
    let mut locales = vec!["LC_COLLATE 'C' LC_CTYPE 'C'".to_owned()];
    let has_icu = "SELECT current_setting('server_version_num')::integer >= 150000
                       AND EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')";
    let mut connection = PgConnection::connect(&database().await.url).await.unwrap();
    if sqlx::query_scalar(has_icu).fetch_one(&mut connection).await.unwrap() {
        let icu = ["tr-TR", "en-US-u-kf-upper", "de-u-co-phonebk"];
        locales.extend(icu.map(|locale| format!("LOCALE_PROVIDER icu ICU_LOCALE '{locale}'")));
    }
    for locale in locales {
        let database = database_as(&format!("TEMPLATE template0 {locale}")).await;
        database.migrate().await;
        everything_works(World::over(async { database }).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_schema_is_found_by_the_connections_options() {
    let database = database_as("TEMPLATE template0").await;
    database.execute("CREATE SCHEMA \"Of Events\"".to_owned()).await;
    let database = database.with("options=-c%20search_path%3D%22Of%5C%20Events%22");
    database.migrate().await;
    let world = World::over(async { database }).await;
    let schemas: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT schemaname::text FROM pg_tables WHERE schemaname !~ '^(pg_|information)'")
            .fetch_all(&world.sql)
            .await
            .unwrap();
    assert_eq!(schemas, ["Of Events"]);
    everything_works(world).await;
}

/// An administrator may have made these settings for a role or a database, though no connection of ours asked for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_settings_of_a_role_will_do() {
    let database = database_as("TEMPLATE template0").await;
    let settings = [
        ("TimeZone", "'Asia/Kathmandu'"),
        ("DateStyle", "'SQL, DMY'"),
        ("IntervalStyle", "'sql_standard'"),
        ("bytea_output", "'escape'"),
        ("standard_conforming_strings", "off"),
        ("backslash_quote", "off"),
        ("array_nulls", "off"),
        ("extra_float_digits", "-10"),
        ("client_encoding", "'LATIN1'"),
        ("client_min_messages", "'debug1'"),
        ("transform_null_equals", "on"),
        ("enable_seqscan", "off"),
        ("plan_cache_mode", "'force_generic_plan'"),
        ("default_toast_compression", "'pglz'"),
        ("check_function_bodies", "off"),
        ("xmloption", "'document'"),
    ];
    for (name, value) in settings {
        database.execute(format!("ALTER DATABASE {} SET {name} = {value}", database.name())).await;
    }
    database.migrate().await;
    everything_works(World::over(async { database }).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_reached_at_ipv6_and_by_keywords() {
    let mut world = World::new().await;
    let [(_, socket_url), ..] = world.variables();
    let postgres = PostgresProxy::start_at(Ipv6Addr::LOCALHOST.into(), &socket_url).await;
    assert!(postgres.url().contains("@[::1]:"), "{}", postgres.url());
    let (store, log) = (world.store(settings(3)), world.log());
    import(&store, &log, (0..3).map(old_event)).await;
    let (server, name) = postgres.url().rsplit_once('/').unwrap();
    let port = server.rsplit_once(':').unwrap().1;
    let name = name.split('?').next().unwrap();
    let keywords = format!("host=::1 port={port} user='coldstream' dbname={name} sslmode=disable");
    for address in [postgres.url().to_owned(), keywords] {
        let status = Program::new(&world, 3).set("POSTGRES_CONNECTION", address).run(&["status"]).await.succeeded();
        assert!(status.contains("orders"), "{status}");
    }
    let program = Program::new(&world, 3).set("POSTGRES_DIRECT_CONNECTION", postgres.url());
    program.run(&["archive"]).await.succeeded();
    assert_eq!(world.only_archive(&store).await.count, 3);
    world.audit().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_refused_with_its_variable() {
    let database = database().await;
    for name in ["POSTGRES_CONNECTION", "POSTGRES_DIRECT_CONNECTION"] {
        let bare = Program::bare().set("POSTGRES_CONNECTION", &database.url);
        let addresses = [
            ("postgres://eva:secret@a:1,b:2/x", "several servers"),
            ("postgres://eva:secret@db/x?target_session_attrs=primary", "target_session_attrs"),
            ("postgres://eva:secret@db/x?sslmod=require", "sslmod"),
            ("host=db password=secret channel_binding=require", "channel_binding"),
            ("mysql://eva:secret@db/x", "postgres://"),
        ];
        let program = addresses.into_iter().fold(bare, |program, (address, words)| {
            let program = program.set(name, address);
            let line = futures::executor::block_on(program.run(&["migrate"])).failed();
            assert!(line.contains(name) && line.contains(words) && !line.contains("secret"), "{line}");
            program
        });
        drop(program);
    }
    let program = Program::bare().set("POSTGRES_CONNECTION", format!("{}&connect_timeout=5", database.url));
    let ended = program.run(&["migrate"]).await;
    assert!(
        ended.errors.iter().any(|line| line.contains("connect_timeout") && line.contains("no effect")),
        "{ended:?}"
    );
    ended.succeeded();
}

/// All replicas are of one version: a process that is older than the tables does not touch them.
#[tokio::test]
async fn tables_of_a_newer_version_are_left_alone() {
    let database = database().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of a newer version', true, '', 0)";
    database.execute(newer.to_owned()).await;
    let error = Database::new(&database.url, 2).unwrap().migrate().await.unwrap_err();
    assert!(error.to_string().contains("9999"), "{error}");
}
