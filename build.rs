//! Generates the gRPC service from its proto file, without a protoc.

use std::error::Error;
use std::path::PathBuf;

const PROTO: &str = "proto/streams.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rerun-if-changed=migrations");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("streams.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Maps are sorted, so that the same event is the same bytes.
    tonic_prost_build::configure().btree_map(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
