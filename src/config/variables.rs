//! The variables, their types and their defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::Deserialize;

use crate::bucket::{Addressing, Checksum};
use crate::config::Error;
use crate::config::secrets::SECRETS;

/// A year: a longer time cannot be meant, and far beyond it clocks overflow.
const SECONDS_MAX: u64 = 366 * 24 * 60 * 60;
/// An hour: jobs wait many times as long, and Postgres counts milliseconds in 31 bits.
const WAIT_SECONDS_MAX: u64 = 60 * 60;
/// The most connections to Postgres, and the most requests to S3, at once.
const AT_ONCE_MAX: u64 = 10_000;
const ATTEMPTS_MAX: u64 = 1_000_000;
const CALLERS_MAX: u64 = 1_000_000;
const BYTES_MAX: u64 = 1 << 50;
/// The memory that a page with the largest event that can be published needs, twice.
const READ_BYTES_MIN: u64 = 64 * 1024 * 1024;
const DAYS_MAX: u64 = 1_000_000;
/// 16 MiB: the most that the gRPC contract takes and that clients send.
const EVENT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The most that a statement's LIMIT takes.
const EVENTS_MAX: u64 = i32::MAX as u64;

/// The environment, variable by variable: `STREAMS_ARCHIVE` is `streams_archive`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Variables {
    pub(super) postgres_connection: Option<String>,
    pub(super) postgres_direct_connection: Option<String>,
    #[serde(default = "defaults::postgres_connections_max")]
    pub(super) postgres_connections_max: u32,
    #[serde(default = "defaults::postgres_timeout_seconds")]
    pub(super) postgres_timeout_seconds: u64,
    #[serde(default = "defaults::http_addr")]
    pub(super) http_addr: SocketAddr,
    #[serde(default = "defaults::grpc_addr")]
    pub(super) grpc_addr: SocketAddr,
    #[serde(default = "defaults::connections_max")]
    pub(super) http_connections_max: usize,
    #[serde(default = "defaults::http_timeout_seconds")]
    pub(super) http_timeout_seconds: u64,
    #[serde(default = "defaults::connections_max")]
    pub(super) grpc_connections_max: usize,
    #[serde(default = "defaults::grpc_keepalive_seconds")]
    pub(super) grpc_keepalive_seconds: u64,
    #[serde(default = "defaults::shutdown_seconds")]
    pub(super) shutdown_seconds: u64,
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
    #[serde(default = "defaults::streams_delivery_attempts_max")]
    pub(super) streams_delivery_attempts_max: u32,
    #[serde(default = "defaults::event_bytes_max")]
    pub(super) event_bytes_max: u64,
    #[serde(default = "defaults::streams_read_bytes_max")]
    pub(super) streams_read_bytes_max: u64,
    #[serde(default = "defaults::streams_read_wait_seconds")]
    pub(super) streams_read_wait_seconds: u64,

    pub(super) s3_endpoint: Option<String>,
    pub(super) s3_access_key: Option<String>,
    pub(super) s3_secret_key: Option<String>,
    pub(super) s3_bucket: Option<String>,
    #[serde(default = "defaults::s3_ssl")]
    pub(super) s3_ssl: bool,
    #[serde(default = "defaults::s3_region")]
    pub(super) s3_region: String,
    #[serde(default = "defaults::s3_addressing")]
    pub(super) s3_addressing: Addressing,
    pub(super) s3_sse: Option<Sse>,
    pub(super) s3_sse_kms_key_id: Option<String>,
    pub(super) s3_storage_class: Option<String>,
    pub(super) s3_checksum: Option<Checksum>,
    #[serde(default = "defaults::s3_cache_bytes")]
    pub(super) s3_cache_bytes: u64,
    #[serde(default = "defaults::s3_reads_max")]
    pub(super) s3_reads_max: usize,
    #[serde(default)]
    pub(super) s3_read_only: bool,
    #[serde(default = "defaults::s3_takeover_seconds")]
    pub(super) s3_takeover_seconds: u64,
}

impl Variables {
    pub(super) fn read(set: &BTreeMap<String, String>) -> Result<Variables, Error> {
        // Each variable is read by itself first, since not every message about a wrong value names the variable.
        for (name, value) in set.iter().filter(|(name, _)| !SECRETS.contains(&name.as_str())) {
            if let Err(error) = envy::from_iter::<_, Variables>([(name.clone(), value.clone())]) {
                let example =
                    if name.ends_with("_ADDR") { "; an address and a port are, such as 127.0.0.1:3000" } else { "" };
                return Err(Error(format!("{name} cannot be {value:?}: {error}{example}")));
            }
        }
        let variables: Variables = envy::from_iter(set.clone()).map_err(|error| Error(error.to_string()))?;
        variables.check_ranges()?;
        Ok(variables)
    }

    fn check_ranges(&self) -> Result<(), Error> {
        let ranges: &[(&str, u64, RangeInclusive<u64>)] = &[
            ("POSTGRES_CONNECTIONS_MAX", self.postgres_connections_max.into(), 1..=AT_ONCE_MAX),
            ("POSTGRES_TIMEOUT_SECONDS", self.postgres_timeout_seconds, 1..=WAIT_SECONDS_MAX),
            ("HTTP_CONNECTIONS_MAX", self.http_connections_max as u64, 1..=CALLERS_MAX),
            ("HTTP_TIMEOUT_SECONDS", self.http_timeout_seconds, 1..=SECONDS_MAX),
            ("GRPC_CONNECTIONS_MAX", self.grpc_connections_max as u64, 1..=CALLERS_MAX),
            ("GRPC_KEEPALIVE_SECONDS", self.grpc_keepalive_seconds, 1..=SECONDS_MAX),
            ("SHUTDOWN_SECONDS", self.shutdown_seconds, 1..=SECONDS_MAX),
            ("STREAMS_ARCHIVE_SIZE", self.streams_archive_size, 1..=EVENTS_MAX),
            ("STREAMS_ARCHIVE_OLDER_THAN_DAYS", self.streams_archive_older_than_days.into(), 0..=DAYS_MAX),
            ("STREAMS_ARCHIVE_INTERVAL_SECONDS", self.streams_archive_interval_seconds, 1..=SECONDS_MAX),
            ("STREAMS_ARCHIVE_LEASE_SECONDS", self.streams_archive_lease_seconds, 1..=SECONDS_MAX),
            ("STREAMS_SCRUB_BYTES_PER_SECOND", self.streams_scrub_bytes_per_second, 0..=BYTES_MAX),
            ("STREAMS_CONSISTENCY_WAIT_SECONDS", self.streams_consistency_wait_seconds, 1..=SECONDS_MAX),
            ("STREAMS_DELIVERY_ATTEMPTS_MAX", self.streams_delivery_attempts_max.into(), 1..=ATTEMPTS_MAX),
            ("EVENT_BYTES_MAX", self.event_bytes_max, 1..=EVENT_BYTES_MAX),
            ("STREAMS_READ_BYTES_MAX", self.streams_read_bytes_max, READ_BYTES_MIN..=BYTES_MAX),
            ("STREAMS_READ_WAIT_SECONDS", self.streams_read_wait_seconds, 1..=SECONDS_MAX),
            ("S3_CACHE_BYTES", self.s3_cache_bytes, 0..=BYTES_MAX),
            ("S3_READS_MAX", self.s3_reads_max as u64, 1..=AT_ONCE_MAX),
            ("S3_TAKEOVER_SECONDS", self.s3_takeover_seconds, 0..=SECONDS_MAX),
        ];
        let Some((name, value, range)) = ranges.iter().find(|(_, value, range)| !range.contains(value)) else {
            return Ok(());
        };
        let (least, most) = (range.start(), range.end());
        Err(Error(format!("{name} cannot be {value}: {least} to {most} is possible")))
    }
}

mod defaults {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::LogFormat;
    use crate::bucket::Addressing;

    pub fn postgres_connections_max() -> u32 {
        20
    }
    pub fn postgres_timeout_seconds() -> u64 {
        10
    }
    /// Loopback: there is no authentication yet.
    pub fn http_addr() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 3000).into()
    }
    pub fn grpc_addr() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 9000).into()
    }
    pub fn connections_max() -> usize {
        10_000
    }
    pub fn http_timeout_seconds() -> u64 {
        30
    }
    /// The published clients ping at the same interval.
    pub fn grpc_keepalive_seconds() -> u64 {
        40
    }
    /// Some platforms kill a process after 5 s.
    pub fn shutdown_seconds() -> u64 {
        4
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
    /// This is 86 GB a day.
    pub fn streams_scrub_bytes_per_second() -> u64 {
        1_000_000
    }
    pub fn streams_consistency_wait_seconds() -> u64 {
        30
    }
    pub fn streams_delivery_attempts_max() -> u32 {
        10
    }
    pub fn event_bytes_max() -> u64 {
        super::EVENT_BYTES_MAX
    }
    /// The largest page that is sent needs this much memory.
    pub fn streams_read_bytes_max() -> u64 {
        512 * 1024 * 1024
    }
    pub fn streams_read_wait_seconds() -> u64 {
        10
    }
    pub fn s3_ssl() -> bool {
        true
    }
    pub fn s3_region() -> String {
        "us-east-1".into()
    }
    /// Every server takes addresses by path.
    pub fn s3_addressing() -> Addressing {
        Addressing::Path
    }
    pub fn s3_cache_bytes() -> u64 {
        256 * 1024 * 1024
    }
    pub fn s3_reads_max() -> usize {
        32
    }
    /// The wait is longer than a look at the marker is good for, and longer than any request takes.
    pub fn s3_takeover_seconds() -> u64 {
        30
    }
}

/// The owner of the key that objects are encrypted with, in the words of S3's header: S3 itself, or KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Sse {
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    Kms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}
