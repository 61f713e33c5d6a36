//! Merged lookups of random archives say what those of each archive said.

use std::collections::{BTreeMap, BTreeSet};

use coldstream::database::catalog::members::{self, MemberRow};
use coldstream::database::lookups::{self, HashKey, LookupRun, merges};
use coldstream::database::{ArchiveKey, commit};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::support::World;

const TOPIC: i64 = 7;
/// One of this many ids is also asked for alone.
const ASKED_ALONE: usize = 100;

/// Inserts an archive without an object into the catalog.
async fn insert_archive(world: &World, id: Uuid, members: u16) {
    sqlx::query(
        "INSERT INTO archives (log_id, id, generation, write_id, etag, digest, first_position, last_position, count,
                               raised_at_min, raised_at_max, json_bytes, object_bytes, types, type_counts)
         VALUES ($1, $2, 1, $2, '', '', 1, 1, 1, 1, 1, 1, 1, '{}', '{}')",
    )
    .bind(TOPIC)
    .bind(id)
    .execute(&world.sql)
    .await
    .unwrap();
    let member = |member| MemberRow {
        member,
        byte_start: 0,
        byte_end: 1,
        json_bytes: 1,
        first_position: 1,
        last_position: 1,
        count: 1,
        type_counts: Vec::new(),
    };
    let rows: Vec<MemberRow> = (0..i32::from(members)).map(member).collect();
    let mut transaction = world.database().begin_job().await.unwrap();
    members::insert(&mut transaction, ArchiveKey::new(TOPIC, id), 1, &rows).await.unwrap();
    commit(transaction).await.unwrap();
}

#[derive(Debug, Default, PartialEq)]
struct Answers {
    /// The members for all ids, asked for together.
    all: BTreeSet<(Uuid, i32)>,
    /// The members for some ids, asked for one by one.
    ids: BTreeMap<String, Vec<(Uuid, i32)>>,
    streams: BTreeMap<String, BTreeMap<(Uuid, i32), i64>>,
    gdpr_ids: BTreeMap<String, Vec<(Uuid, i32)>>,
}

impl Answers {
    async fn asked(world: &World, key: HashKey, ids: &[String]) -> Answers {
        let mut snapshot = world.database().view().await.unwrap();
        let mut answers = Answers::default();
        answers.all.extend(lookups::members_with_ids(&mut snapshot, TOPIC, key, ids, &[]).await.unwrap());
        for id in ids.iter().step_by(ASKED_ALONE) {
            let of_id = std::slice::from_ref(id);
            let members = lookups::members_with_ids(&mut snapshot, TOPIC, key, of_id, &[]).await.unwrap();
            answers.ids.insert(id.clone(), members);
        }
        for name in (0..12).map(|number| format!("name-{number}")) {
            let streams = lookups::members_with_stream(&mut snapshot, TOPIC, key, &name).await.unwrap();
            let members = lookups::members_with_gdpr_id(&mut snapshot, TOPIC, key, &name).await.unwrap();
            answers.streams.insert(name.clone(), streams);
            answers.gdpr_ids.insert(name, members);
        }
        answers
    }

    fn forget(&mut self, archive: Uuid) {
        self.all.retain(|(id, _)| *id != archive);
        self.ids.values_mut().for_each(|members| members.retain(|(id, _)| *id != archive));
        self.streams.values_mut().for_each(|members| members.retain(|(id, _), _| *id != archive));
        self.gdpr_ids.values_mut().for_each(|members| members.retain(|(id, _)| *id != archive));
    }
}

/// Random archives of up to three runs each, with what lookups should say of them.
struct Scene {
    key: HashKey,
    /// The archives that are there, with the members of each.
    archives: Vec<(Uuid, u16)>,
    /// The ids of all events, also of those whose archive is gone.
    ids: Vec<String>,
    expected: Answers,
}

impl Scene {
    async fn new(world: &World, random: &mut StdRng) -> Scene {
        let mut scene = Scene {
            key: HashKey::new(Uuid::from_u128(random.random())),
            archives: Vec::new(),
            ids: Vec::new(),
            expected: Answers::default(),
        };
        (0..12).for_each(|number| {
            scene.expected.streams.insert(format!("name-{number}"), BTreeMap::new());
            scene.expected.gdpr_ids.insert(format!("name-{number}"), Vec::new());
        });
        let mut transaction = world.database().begin_job().await.unwrap();
        for _ in 0..random.random_range(100..125) {
            let (archive_id, members) = (Uuid::now_v7(), random.random_range(1..40_u16));
            for run in 0..random.random_range(1..4) {
                let lookups = scene.random_run(random, archive_id, members);
                lookups::insert_run(&mut transaction, ArchiveKey::new(TOPIC, archive_id), run, lookups).await.unwrap();
            }
            scene.archives.push((archive_id, members));
        }
        commit(transaction).await.unwrap();
        scene.expected.gdpr_ids.values_mut().for_each(|members| {
            members.sort_unstable();
            members.dedup();
        });
        for (archive_id, members) in &scene.archives {
            insert_archive(world, *archive_id, *members).await;
        }
        scene
    }

    fn random_run(&mut self, random: &mut StdRng, archive_id: Uuid, members: u16) -> LookupRun {
        let Scene { key, ids, expected, .. } = self;
        let mut lookups = LookupRun::new(*key);
        for _ in 0..random.random_range(1..12) {
            let id = format!("event-{}", ids.len());
            let member = random.random_range(0..members);
            let stream = format!("name-{}", random.random_range(0..10));
            let person = format!("name-{}", random.random_range(0..10));
            lookups.add(&id, &stream, std::iter::once(person.as_str()), member);
            let place = (archive_id, i32::from(member));
            expected.all.insert(place);
            if ids.len() % ASKED_ALONE == 0 {
                expected.ids.insert(id.clone(), vec![place]);
            }
            *expected.streams.get_mut(&stream).unwrap().entry(place).or_default() += 1;
            expected.gdpr_ids.get_mut(&person).unwrap().push(place);
            ids.push(id);
        }
        lookups
    }

    async fn answers(&self, world: &World) -> Answers {
        Answers::asked(world, self.key, &self.ids).await
    }
}

async fn delete_lookups(world: &World, archive_id: Uuid) {
    let mut transaction = world.database().begin_job().await.unwrap();
    lookups::delete(&mut transaction, ArchiveKey::new(TOPIC, archive_id)).await.unwrap();
    commit(transaction).await.unwrap();
}

/// Random archives are merged; some of them go before and between the merges.
#[tokio::test]
async fn merged_answers_are_those_of_all_archives() {
    for seed in 0..2 {
        let mut world = World::new().await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut scene = Scene::new(&world, &mut random).await;
        assert_eq!(scene.answers(&world).await, scene.expected, "seed {seed}");
        let mut merges = 0;
        loop {
            let (gone, _) = scene.archives.swap_remove(random.random_range(0..scene.archives.len()));
            delete_lookups(&world, gone).await;
            scene.expected.forget(gone);
            assert_eq!(scene.answers(&world).await, scene.expected, "seed {seed}, merge {merges}");
            let mut transaction = world.database().begin_job().await.unwrap();
            let Some(merge) = merges::due(&mut transaction, TOPIC).await.unwrap() else { break };
            merges::merge(&mut transaction, &merge).await.unwrap();
            commit(transaction).await.unwrap();
            merges += 1;
        }
        assert!(merges >= 9, "seed {seed}: {merges}");
        for (archive_id, _) in scene.archives {
            delete_lookups(&world, archive_id).await;
        }
        for statement in ["DELETE FROM archives", "DELETE FROM members"] {
            sqlx::query(statement).execute(&world.sql).await.unwrap();
        }
        // Nothing is left of lookups whose archives are all gone.
        world.audit().await;
    }
}
