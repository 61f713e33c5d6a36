//! The ways in: parse, one call of the store, convert. What goes wrong becomes a status in one place for each protocol.

mod document;
mod door;
mod grpc;
mod held;
mod http;

pub use document::{EventDocument, ImportLine};
pub use grpc::{Settings as GrpcSettings, Tls, proto, serve as serve_grpc};
pub use http::{Settings as HttpSettings, serve as serve_http};
