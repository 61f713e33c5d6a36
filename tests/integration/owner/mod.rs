//! A bucket has one owner: copies of its database read the bucket, and change nothing in it.

mod copies;
mod folders;
mod steps;

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{MARKER, World};

/// Returns every object, byte by byte, without the marker.
async fn contents(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for key in world.bucket.keys().await {
        contents.insert(key.clone(), world.bucket.get(&key).await);
    }
    contents
}

async fn marker(world: &World) -> Value {
    serde_json::from_slice(&world.bucket.get(MARKER).await).unwrap()
}

/// Returns once the task challenges the owner, as it sets out to do.
async fn challenged<T>(world: &World, by: &JoinHandle<T>) {
    while marker(world).await["challenger"].is_null() {
        assert!(!by.is_finished(), "the task has asked nobody");
    }
}

fn is_fenced(why: &str) -> bool {
    why.contains("owned by another database") && why.contains("`coldstream adopt`") && why.contains("S3_READ_ONLY")
}
