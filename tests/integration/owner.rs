//! A bucket has one owner: copies of its database read what is in it, and change nothing.

mod copies;
mod folders;
mod steps;

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{MARKER, World};

/// Every object, byte by byte, the marker aside.
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

/// Returns once somebody challenges the owner, which is what this task sets out to do.
async fn challenged<T>(world: &World, by: &JoinHandle<T>) {
    while marker(world).await["challenger"].is_null() {
        assert!(!by.is_finished(), "it has asked nobody");
    }
}

fn is_fenced(why: &str) -> bool {
    why.contains("owned by another database") && why.contains("`coldstream adopt`") && why.contains("S3_READ_ONLY")
}
