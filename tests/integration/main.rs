//! Tests against a real Postgres and a real S3 server over the wire. The tests start both by themselves; one line says
//! what cannot be had.

mod archive;
mod change_stream;
mod command_line;
mod contract;
mod damage;
mod demands;
mod doors;
mod edit;
mod examples;
mod faults;
mod grpc;
mod http;
mod importing;
mod loan_applications;
mod log;
mod machine;
mod many_topics;
mod memory;
mod merges;
mod model;
mod owner;
mod probe;
mod process;
mod publish;
mod reads;
mod recover;
mod restore;
mod schema;
mod servers;
mod settings;
mod support;
mod sweep;
mod transport;
mod troubles;
mod verify;
