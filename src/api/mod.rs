//! The ways into the service. Each of them parses a request, calls the store, and converts the answer. Each protocol
//! has one place where errors become statuses.

mod door;
mod event_document;
mod grpc;
mod held;
mod http;

pub use event_document::{EventDocument, ImportLine};
pub use grpc::{Settings as GrpcSettings, Tls, proto, serve as serve_grpc};
pub use http::{Settings as HttpSettings, serve as serve_http};
