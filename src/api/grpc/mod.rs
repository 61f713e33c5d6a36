//! The gRPC contract, `freym.streams.management.Service`. `proto/streams.proto` lists every call that is served.

mod convert;
mod groups;
mod read;
mod status;
mod subscribe;
mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::middleware::map_response;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use crate::api::door::{Door, Late, Paced, Patience, Visitor};
use crate::api::held::hold_body;
use crate::store::Store;

use proto::service_server::{SERVICE_NAME, Service, ServiceServer};
use proto::{
    BackchannelRequest, BackchannelResponse, CreateStreamSnapshotRequest, CreateStreamSnapshotResponse, Event,
    GetEventRequest, GetLastEventByTypesRequest, GetLastEventRequest, GetLastHandledEventRequest,
    IntroduceGdprOnEventFieldRequest, IntroduceGdprOnEventFieldResponse, InvalidateGdprRequest, InvalidateGdprResponse,
    IsStreamEmptyRequest, IsStreamEmptyResponse, ListErroneousEventsRequest, ListErroneousEventsResponse,
    PaginateEventsAfterEventIdRequest, PaginateEventsAfterEventIdResponse, PaginateEventsRequest,
    PaginateEventsResponse, PaginateStreamAfterEventIdRequest, PaginateStreamAfterEventIdResponse,
    PaginateStreamRequest, PaginateStreamResponse, PublishRequest, PublishResponse, RenameEventTypeRequest,
    RenameEventTypeResponse, ResendErroneousEventRequest, ResendErroneousEventResponse, SubscribeRequest,
    WaitForTransactionalConsistencyRequest, WaitForTransactionalConsistencyResponse,
};

/// The code that is generated from `proto/streams.proto`, with a client.
pub mod proto {
    #![allow(clippy::all)]
    tonic::include_proto!("freym.streams.management");
}

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/streams.bin"));
/// The most bytes of a request. It has room for publications above their own limit, which are refused for good here:
/// clients repeat a request that tonic refuses.
const RECEIVED_BYTES_MAX: usize = 4 * PUBLISHED_BYTES_MAX;
const PUBLISHED_BYTES_MAX: usize = 16 * 1024 * 1024;
const SENT_BYTES_MAX: usize = 256 * 1024 * 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of clients that may connect, the pings by which the server notices that one is gone, and its TLS.
#[derive(Debug, Clone)]
pub struct Settings {
    pub connections_max: usize,
    /// The time between two pings of the server, with or without a stream. A client that does not answer one within
    /// half of it is gone, and a client that is silent for as long in the middle of a message is not waited for.
    pub keepalive: Duration,
    /// The certificate of the server, which speaks plain text without one.
    pub tls: Option<Tls>,
}

/// The certificate that clients are shown, and its key.
#[derive(Clone)]
pub struct Tls(ServerTlsConfig);

impl Tls {
    /// Takes the contents of two PEM files. The error says what is wrong with them.
    pub fn new(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Tls, String> {
        let settings =
            ServerTlsConfig::new().timeout(HANDSHAKE_TIMEOUT).identity(Identity::from_pem(certificate_pem, key_pem));
        Server::builder().tls_config(settings.clone()).map_err(|error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        Ok(Tls(settings))
    }
}

impl std::fmt::Debug for Tls {
    /// Shows neither certificate nor key: a key does not belong in logs.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tls")
    }
}

/// Serves until `shutdown` is over and every call that had begun before is answered.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    store: Arc<Store>,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ServiceServer<Streams>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(std::io::Error::other)?;
    let service = ServiceServer::new(Streams { store })
        .max_decoding_message_size(RECEIVED_BYTES_MAX)
        .max_encoding_message_size(SENT_BYTES_MAX);
    let pages = Routes::new(service).into_axum_router().layer(map_response(hold_body));
    let Settings { connections_max, keepalive, tls } = settings;
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive / 2))
        .layer(MapRequestLayer::new(move |request| paced(request, keepalive)));
    if let Some(Tls(settings)) = tls {
        server = server.tls_config(settings).map_err(std::io::Error::other)?;
    }
    // A living client answers pings. There are none before HTTP/2 begins, and TLS may hide that it has not begun.
    let patience = Patience { opening: keepalive, silence: Some(keepalive * 2), stall: None };
    server
        .add_routes(Routes::from(pages).add_service(health_service).add_service(reflection))
        .serve_with_incoming_shutdown(Door::new("grpc", listener, connections_max, patience).visitors(), shutdown)
        .await
        .map_err(std::io::Error::other)
}

/// Gives the body of a request its deadline. Only a client that subscribes, or asks for reflection, may say nothing for
/// long in the middle of a call.
fn paced(request: http::Request<Body>, limit: Duration) -> http::Request<Body> {
    let path = request.uri().path();
    if path.strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME)) == Some("/Subscribe")
        || path.starts_with("/grpc.reflection.")
    {
        return request;
    }
    let late = || Status::deadline_exceeded(Late.to_string()).into();
    request.map(|body| Body::new(Paced::new(body, limit, late)))
}

impl Connected for Visitor {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream().connect_info()
    }
}

struct Streams {
    store: Arc<Store>,
}

/// The calls, one line each: `read`, `write`, `groups` and `subscribe` have their functions.
#[tonic::async_trait]
impl Service for Streams {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        write::publish(&self.store, request.into_inner()).await.map(Response::new)
    }

    type SubscribeStream = subscribe::Responses;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(Response::new(subscribe::subscribe(&self.store, request)))
    }

    async fn get_event(&self, request: Request<GetEventRequest>) -> Result<Response<Event>, Status> {
        read::get_event(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn get_last_event(&self, request: Request<GetLastEventRequest>) -> Result<Response<Event>, Status> {
        read::get_last_event(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn get_last_event_by_types(
        &self,
        request: Request<GetLastEventByTypesRequest>,
    ) -> Result<Response<Event>, Status> {
        read::get_last_event_by_types(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn paginate_events(
        &self,
        request: Request<PaginateEventsRequest>,
    ) -> Result<Response<PaginateEventsResponse>, Status> {
        read::paginate_events(&self.store, request.into_inner()).await
    }

    async fn paginate_events_after_event_id(
        &self,
        request: Request<PaginateEventsAfterEventIdRequest>,
    ) -> Result<Response<PaginateEventsAfterEventIdResponse>, Status> {
        read::paginate_events_after_event_id(&self.store, request.into_inner()).await
    }

    async fn is_stream_empty(
        &self,
        request: Request<IsStreamEmptyRequest>,
    ) -> Result<Response<IsStreamEmptyResponse>, Status> {
        read::is_stream_empty(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn paginate_stream(
        &self,
        request: Request<PaginateStreamRequest>,
    ) -> Result<Response<PaginateStreamResponse>, Status> {
        read::paginate_stream(&self.store, request.into_inner()).await
    }

    async fn paginate_stream_after_event_id(
        &self,
        request: Request<PaginateStreamAfterEventIdRequest>,
    ) -> Result<Response<PaginateStreamAfterEventIdResponse>, Status> {
        read::paginate_stream_after_event_id(&self.store, request.into_inner()).await
    }

    async fn create_stream_snapshot(
        &self,
        request: Request<CreateStreamSnapshotRequest>,
    ) -> Result<Response<CreateStreamSnapshotResponse>, Status> {
        write::create_stream_snapshot(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn get_last_handled_event(
        &self,
        request: Request<GetLastHandledEventRequest>,
    ) -> Result<Response<Event>, Status> {
        groups::get_last_handled_event(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn wait_for_transactional_consistency(
        &self,
        request: Request<WaitForTransactionalConsistencyRequest>,
    ) -> Result<Response<WaitForTransactionalConsistencyResponse>, Status> {
        groups::wait_for_transactional_consistency(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn list_erroneous_events(
        &self,
        request: Request<ListErroneousEventsRequest>,
    ) -> Result<Response<ListErroneousEventsResponse>, Status> {
        groups::list_erroneous_events(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn resend_erroneous_event(
        &self,
        request: Request<ResendErroneousEventRequest>,
    ) -> Result<Response<ResendErroneousEventResponse>, Status> {
        groups::resend_erroneous_event(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn backchannel(&self, request: Request<BackchannelRequest>) -> Result<Response<BackchannelResponse>, Status> {
        groups::backchannel(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn introduce_gdpr_on_event_field(
        &self,
        request: Request<IntroduceGdprOnEventFieldRequest>,
    ) -> Result<Response<IntroduceGdprOnEventFieldResponse>, Status> {
        write::introduce_gdpr_on_event_field(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn invalidate_gdpr(
        &self,
        request: Request<InvalidateGdprRequest>,
    ) -> Result<Response<InvalidateGdprResponse>, Status> {
        write::invalidate_gdpr(&self.store, request.into_inner()).await.map(Response::new)
    }

    async fn rename_event_type(
        &self,
        request: Request<RenameEventTypeRequest>,
    ) -> Result<Response<RenameEventTypeResponse>, Status> {
        write::rename_event_type(&self.store, request.into_inner()).await.map(Response::new)
    }
}
