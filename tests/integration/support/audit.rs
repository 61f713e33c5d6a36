//! Checks of every promise from the outside: of rows by SQL of its own, of objects by plain gzip and plain JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use coldstream::bucket::object_key;
use coldstream::event::{Instant, Log};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use sqlx::FromRow;
use uuid::Uuid;

use super::{World, unzip};

#[derive(FromRow)]
struct Topic {
    id: i64,
    tenant: String,
    topic: String,
    head_position: i64,
    archived_count: i64,
    archived_to: i64,
    deleted_count: i64,
    hot_magnitude: i32,
    archived_json_bytes: i64,
    archived_object_bytes: i64,
}

#[derive(FromRow)]
struct Archive {
    id: Uuid,
    generation: i64,
    etag: String,
    digest: Vec<u8>,
    first_position: i64,
    last_position: i64,
    count: i64,
    raised_at_min: i64,
    raised_at_max: i64,
    json_bytes: i64,
    object_bytes: i64,
    types: Vec<String>,
    type_counts: Vec<i64>,
}

#[derive(FromRow)]
struct Member {
    generation: i64,
    byte_start: i64,
    byte_end: i64,
    json_bytes: i64,
    first_position: i64,
    last_position: i64,
    count: i64,
    type_counts: Vec<i64>,
}

/// An event of an object. Payloads may hold what no type of Rust can, such as 1e999.
#[derive(Deserialize)]
struct Line {
    position: i64,
    id: String,
    tenant_id: String,
    topic: String,
    #[serde(rename = "type")]
    event_type: String,
    raised_at: String,
    payload: Box<RawValue>,
}

pub async fn audit(world: &World) {
    let topics: Vec<Topic> = sqlx::query_as("SELECT * FROM logs").fetch_all(&world.sql).await.unwrap();
    for topic in &topics {
        let log = Log::new(topic.tenant.clone(), topic.topic.clone()).unwrap();
        let hot: Vec<(i64, String)> = sqlx::query_as("SELECT position, id FROM events WHERE log_id = $1")
            .bind(topic.id)
            .fetch_all(&world.sql)
            .await
            .unwrap();
        let mut places: Vec<i64> = hot.iter().map(|(position, _)| *position).collect();
        let mut ids: BTreeSet<String> = hot.into_iter().map(|(_, id)| id).collect();
        let archives: Vec<Archive> = sqlx::query_as("SELECT * FROM archives WHERE log_id = $1")
            .bind(topic.id)
            .fetch_all(&world.sql)
            .await
            .unwrap();
        for archive in &archives {
            let key = object_key(&log, archive.id);
            let events = check_archive(world, &log, topic.id, archive, &key).await;
            places.extend(events.iter().map(|event| event.position));
            ids.extend(events.iter().map(|event| event.id.clone()));
        }
        places.sort_unstable();
        places.dedup();
        let count = topic.head_position - topic.deleted_count;
        assert_eq!(places.len() as i64, count, "{log}: positions are in {places:?}");
        assert!(places.iter().all(|place| (1..=topic.head_position).contains(place)), "{log}: {places:?}");
        assert_eq!(ids.len() as i64, count, "{log}: ids are unique");
        let magnitude = (i64::BITS - (count - topic.archived_count).leading_zeros()) as i32;
        assert_eq!(topic.hot_magnitude, magnitude, "{log}");
        assert!(archives.iter().all(|archive| archive.last_position <= topic.archived_to), "{log}");
        let sum = |field: fn(&Archive) -> i64| archives.iter().map(field).sum::<i64>();
        assert_eq!(
            (topic.archived_count, topic.archived_json_bytes, topic.archived_object_bytes),
            (sum(|archive| archive.count), sum(|archive| archive.json_bytes), sum(|archive| archive.object_bytes)),
            "{log}: sums"
        );
    }
    leftovers(world).await;
}

/// Checks that a quiet moment leaves nothing besides live archives.
pub async fn leftovers(world: &World) {
    let archives: Vec<(String, String, Uuid)> =
        sqlx::query_as("SELECT tenant, topic, archives.id FROM archives JOIN logs ON logs.id = log_id")
            .fetch_all(&world.sql)
            .await
            .unwrap();
    let ids: BTreeSet<Uuid> = archives.iter().map(|(.., id)| *id).collect();
    let mut keys: Vec<String> =
        archives.into_iter().map(|(tenant, topic, id)| object_key(&Log::new(tenant, topic).unwrap(), id)).collect();
    keys.sort_unstable();
    assert_eq!(world.bucket.keys().await, keys, "objects and live archives");
    assert_eq!(world.bucket.version_keys().await, keys, "versions that nobody reads");
    assert_eq!(world.bucket.unfinished_uploads().await, Vec::<String>::new(), "unfinished uploads");
    for (what, query) in [
        ("intents", "SELECT count(*) FROM intents"),
        ("pending edits", "SELECT count(*) FROM pending_edits"),
        ("edits not applied", "SELECT count(*) FROM edits WHERE applied_at IS NULL"),
        ("edits not purged", "SELECT count(*) FROM edits WHERE purged_at IS NULL"),
        (
            "wrong sums of merges",
            "SELECT count(*) FROM lookups
             WHERE first_position IS NOT NULL
               AND (first_position, last_position, (SELECT sum(count) FROM unnest(type_counts) AS count)) IS DISTINCT FROM
                   (SELECT (min(archives.first_position), max(archives.last_position), sum(archives.count))
                    FROM archives WHERE archives.id = ANY(archive_ids))",
        ),
        ("leases", "SELECT count(*) FROM logs WHERE lease_expires_at >= clock_timestamp()"),
    ] {
        let count: i64 = sqlx::query_scalar(query).fetch_one(&world.sql).await.unwrap();
        assert_eq!(count, 0, "{what} are left");
    }
    let found =
        async |query: &'static str| -> Vec<Uuid> { sqlx::query_scalar(query).fetch_all(&world.sql).await.unwrap() };
    let ids: Vec<Uuid> = ids.into_iter().collect();
    assert_eq!(found("SELECT DISTINCT archive_id FROM members ORDER BY archive_id").await, ids, "members");
    let kept =
        "SELECT kept.id FROM lookups, unnest(archive_ids) AS kept (id) WHERE kept.id IS NOT NULL ORDER BY kept.id";
    assert_eq!(found(kept).await, ids, "every archive is in the lookups once");
    assert_eq!(
        found("SELECT DISTINCT lookup_id FROM lookup_pages ORDER BY lookup_id").await,
        found("SELECT id FROM lookups ORDER BY id").await,
        "pages and lookups"
    );
}

/// Checks an archive, and returns the events of its object.
async fn check_archive(world: &World, log: &Log, log_id: i64, archive: &Archive, key: &str) -> Vec<Line> {
    let object = world.bucket.get(key).await;
    assert_eq!(object.len() as i64, archive.object_bytes, "{key}");
    assert_eq!(Sha256::digest(&object)[..], archive.digest, "{key}");
    let json = unzip(&object);
    assert_eq!(json.len() as i64, archive.json_bytes, "{key}");
    let events: Vec<Line> = serde_json::from_str(&json).unwrap();
    assert!(!archive.etag.is_empty(), "{key}");
    assert!(events.iter().all(|event| event.tenant_id == log.tenant() && event.topic == log.topic()), "{key}");
    assert!(events.iter().all(|event| event.payload.get().starts_with('{')), "{key}");
    let positions: Vec<i64> = events.iter().map(|event| event.position).collect();
    assert!(positions.is_sorted_by(|position, next| position < next), "{key}");
    assert_eq!(
        (archive.first_position, archive.last_position, archive.count),
        (positions[0], positions[positions.len() - 1], positions.len() as i64),
        "{key}"
    );
    let raised_at = events.iter().map(|event| Instant::parse(&event.raised_at).unwrap().unix_nanos());
    let raised_at: Vec<i64> = raised_at.collect();
    assert_eq!(
        (Some(&archive.raised_at_min), Some(&archive.raised_at_max)),
        (raised_at.iter().min(), raised_at.iter().max()),
        "{key}"
    );
    assert_eq!(counted(&archive.types, &archive.type_counts), types_of(&events), "{key}");
    check_members(world, log_id, archive, &object, &events).await;
    events
}

async fn check_members(world: &World, log_id: i64, archive: &Archive, object: &[u8], events: &[Line]) {
    let members: Vec<Member> =
        sqlx::query_as("SELECT * FROM members WHERE log_id = $1 AND archive_id = $2 ORDER BY generation, member")
            .bind(log_id)
            .bind(archive.id)
            .fetch_all(&world.sql)
            .await
            .unwrap();
    let (mut reached, mut rest) = (0, events);
    for member in &members {
        assert_eq!((member.generation, member.byte_start), (archive.generation, reached));
        reached = member.byte_end;
        let mut json = String::new();
        let bytes = &object[member.byte_start as usize..member.byte_end as usize];
        GzDecoder::new(bytes).read_to_string(&mut json).unwrap();
        assert_eq!(json.len() as i64, member.json_bytes);
        let (held, after) = rest.split_at(member.count as usize);
        rest = after;
        assert_eq!(held[0].position, member.first_position);
        assert_eq!(held[held.len() - 1].position, member.last_position);
        assert_eq!(counted(&archive.types, &member.type_counts), types_of(held));
    }
    assert_eq!((reached, rest.len()), (archive.object_bytes, 0));
}

/// Adds counts up by name, since a name comes twice if one type was renamed to another.
fn counted(types: &[String], counts: &[i64]) -> BTreeMap<String, i64> {
    let mut counted = BTreeMap::new();
    for (name, count) in types.iter().zip(counts).filter(|(_, count)| **count > 0) {
        *counted.entry(name.clone()).or_default() += count;
    }
    counted
}

fn types_of(events: &[Line]) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for event in events {
        *counts.entry(event.event_type.clone()).or_default() += 1;
    }
    counts
}
