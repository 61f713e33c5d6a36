//! The variables, their types and their defaults.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// The environment, variable by variable: `STREAMS_ARCHIVE` is `streams_archive`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Variables {
    pub(super) postgres_connection: Option<String>,
    pub(super) postgres_direct_connection: Option<String>,
    #[serde(default = "defaults::postgres_connections_max")]
    pub(super) postgres_connections_max: u32,
    #[serde(default = "defaults::http_addr")]
    pub(super) http_addr: SocketAddr,
    #[serde(default = "defaults::grpc_addr")]
    pub(super) grpc_addr: SocketAddr,
    pub(super) grpc_tls_certificate: Option<PathBuf>,
    pub(super) grpc_tls_key: Option<PathBuf>,
    pub(super) config_file: Option<PathBuf>,
    #[serde(default = "defaults::log_level")]
    pub(super) log_level: String,
    #[serde(default = "defaults::log_format")]
    pub(super) log_format: LogFormat,

    #[serde(default)]
    pub(super) streams_archive: bool,
    #[serde(default = "defaults::streams_archive_size")]
    pub(super) streams_archive_size: u64,
    #[serde(default = "defaults::streams_archive_older_than_days")]
    pub(super) streams_archive_older_than_days: u32,
    #[serde(default = "defaults::streams_archive_interval_seconds")]
    pub(super) streams_archive_interval_seconds: u64,
    #[serde(default = "defaults::streams_archive_lease_seconds")]
    pub(super) streams_archive_lease_seconds: u64,
    #[serde(default)]
    pub(super) streams_start_unreconciled: bool,
    #[serde(default = "defaults::streams_scrub_bytes_per_second")]
    pub(super) streams_scrub_bytes_per_second: u64,

    #[serde(default = "defaults::streams_consistency_wait_seconds")]
    pub(super) streams_consistency_wait_seconds: u64,

    pub(super) s3_endpoint: Option<String>,
    pub(super) s3_access_key: Option<String>,
    pub(super) s3_secret_key: Option<String>,
    pub(super) s3_bucket: Option<String>,
    #[serde(default = "defaults::s3_ssl")]
    pub(super) s3_ssl: bool,
    #[serde(default = "defaults::s3_region")]
    pub(super) s3_region: String,
    #[serde(default = "defaults::s3_cache_bytes")]
    pub(super) s3_cache_bytes: u64,
    #[serde(default = "defaults::s3_reads_max")]
    pub(super) s3_reads_max: usize,
}

mod defaults {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::LogFormat;

    pub fn postgres_connections_max() -> u32 {
        20
    }
    /// Loopback: there is no authentication yet.
    pub fn http_addr() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 3000).into()
    }
    pub fn grpc_addr() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 9000).into()
    }
    pub fn log_level() -> String {
        "info".into()
    }
    pub fn log_format() -> LogFormat {
        LogFormat::Text
    }
    pub fn streams_archive_size() -> u64 {
        100_000
    }
    pub fn streams_archive_older_than_days() -> u32 {
        30
    }
    pub fn streams_archive_interval_seconds() -> u64 {
        60
    }
    pub fn streams_archive_lease_seconds() -> u64 {
        60
    }
    /// 86 GB a day.
    pub fn streams_scrub_bytes_per_second() -> u64 {
        1_000_000
    }
    pub fn streams_consistency_wait_seconds() -> u64 {
        30
    }
    pub fn s3_ssl() -> bool {
        true
    }
    pub fn s3_region() -> String {
        "us-east-1".into()
    }
    pub fn s3_cache_bytes() -> u64 {
        256 * 1024 * 1024
    }
    pub fn s3_reads_max() -> usize {
        32
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}
