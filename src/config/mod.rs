//! The only reader of the environment. Everything that can be set has its name, its default and its check in here; the
//! table of the README is this file in prose.

mod file;
#[cfg(test)]
mod tests;
mod variables;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api;
use crate::bucket;
use crate::config::file::required_groups;
use crate::config::variables::Variables;
use crate::event;
use crate::store;

pub use variables::LogFormat;

/// Why the process cannot start: one line that names the variable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Each room's settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub postgres_connection: String,
    pub postgres_direct_connection: String,
    pub postgres_connections_max: u32,
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
    /// Plain text without one.
    pub grpc_tls: Option<api::Tls>,
    pub log_level: String,
    pub log_format: LogFormat,
    /// Whether old events are archived.
    pub archive: bool,
    pub archive_interval: Duration,
    /// Whether a database that does not know all that is in its bucket is served all the same.
    pub start_unreconciled: bool,
    /// 0 for no scrubs at all.
    pub scrub_bytes_per_second: u64,
    pub store: store::Settings,
    /// What is known of the bucket; `Err` says what is missing, for whoever needs one.
    bucket: Result<bucket::Settings, String>,
}

impl Config {
    /// Reads `.env` in the working directory, where variables that are set already win, and then the environment.
    pub fn from_environment() -> Result<Config, Error> {
        match dotenvy::from_path(".env") {
            Err(error) if !error.not_found() => return Err(Error(format!(".env cannot be read: {error}"))),
            _ => {}
        }
        Config::from_variables(std::env::vars())
    }

    /// An empty value is as good as none.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Error> {
        let set: Vec<(String, String)> = variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        // One by one first: not every message of a wrong value says whose it is.
        for (name, value) in &set {
            let alone = [(name.clone(), value.clone())];
            if let Err(error) = envy::from_iter::<_, Variables>(alone) {
                return Err(Error(format!("{name} cannot be {value:?}: {error}")));
            }
        }
        let variables: Variables = envy::from_iter(set).map_err(|error| Error(error.to_string()))?;
        let bucket = bucket_settings(&variables);
        if let (true, Err(missing)) = (variables.streams_archive, &bucket) {
            return Err(Error(format!("STREAMS_ARCHIVE is true, and {missing}")));
        }
        let not_zero = [
            ("POSTGRES_CONNECTIONS_MAX", u64::from(variables.postgres_connections_max)),
            ("STREAMS_ARCHIVE_SIZE", variables.streams_archive_size),
            ("STREAMS_ARCHIVE_INTERVAL_SECONDS", variables.streams_archive_interval_seconds),
            ("STREAMS_ARCHIVE_LEASE_SECONDS", variables.streams_archive_lease_seconds),
            ("STREAMS_CONSISTENCY_WAIT_SECONDS", variables.streams_consistency_wait_seconds),
            ("S3_READS_MAX", variables.s3_reads_max as u64),
        ];
        if let Some((name, _)) = not_zero.iter().find(|(_, value)| *value == 0) {
            return Err(Error(format!("{name} is 0, at least 1 is needed")));
        }
        if i32::try_from(variables.streams_archive_size).is_err() {
            return Err(Error("STREAMS_ARCHIVE_SIZE is too large: at most 2147483647".into()));
        }
        let postgres_connection = variables.postgres_connection.ok_or_else(|| {
            Error("POSTGRES_CONNECTION is not set: postgres://user:password@host:5432/database".into())
        })?;
        let required_groups = required_groups(variables.config_file.as_deref())?;
        let deleted = required_groups.normal.keys().chain(required_groups.parallel.keys());
        let eligibility = event::Eligibility {
            older_than_days: variables.streams_archive_older_than_days,
            excluded_topics: deleted.cloned().collect(),
            batch_size: variables.streams_archive_size,
        };
        Ok(Config {
            postgres_direct_connection: variables.postgres_direct_connection.unwrap_or(postgres_connection.clone()),
            postgres_connection,
            postgres_connections_max: variables.postgres_connections_max,
            http_addr: variables.http_addr,
            grpc_addr: variables.grpc_addr,
            grpc_tls: grpc_tls(&variables.grpc_tls_certificate, &variables.grpc_tls_key)?,
            log_level: variables.log_level,
            log_format: variables.log_format,
            archive: variables.streams_archive,
            archive_interval: Duration::from_secs(variables.streams_archive_interval_seconds),
            start_unreconciled: variables.streams_start_unreconciled,
            scrub_bytes_per_second: variables.streams_scrub_bytes_per_second,
            store: store::Settings {
                eligibility,
                lease_term: Duration::from_secs(variables.streams_archive_lease_seconds),
                subscribing: store::SubscribingSettings {
                    required_groups,
                    consistency_wait: Duration::from_secs(variables.streams_consistency_wait_seconds),
                },
            },
            bucket,
        })
    }

    /// The bucket, or which variables are missing for one.
    pub fn bucket(&self) -> Result<&bucket::Settings, Error> {
        self.bucket.as_ref().map_err(|missing| Error(missing.clone()))
    }
}

fn bucket_settings(variables: &Variables) -> Result<bucket::Settings, String> {
    let required = |name: &str, value: &Option<String>| value.clone().ok_or(format!("{name} is not set"));
    let endpoint = required("S3_ENDPOINT", &variables.s3_endpoint)?;
    if endpoint.contains('/') {
        return Err(format!("S3_ENDPOINT is {endpoint:?}: host:port is needed, without a scheme or a path"));
    }
    Ok(bucket::Settings {
        endpoint,
        access_key: required("S3_ACCESS_KEY", &variables.s3_access_key)?,
        secret_key: required("S3_SECRET_KEY", &variables.s3_secret_key)?,
        bucket: required("S3_BUCKET", &variables.s3_bucket)?,
        ssl: variables.s3_ssl,
        region: variables.s3_region.clone(),
        cache_bytes_max: variables.s3_cache_bytes,
        reads_max: variables.s3_reads_max,
    })
}

fn grpc_tls(certificate: &Option<PathBuf>, key: &Option<PathBuf>) -> Result<Option<api::Tls>, Error> {
    let read = |name: &str, path: &Path| {
        std::fs::read(path).map_err(|error| Error(format!("{name} {}: {error}", path.display())))
    };
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => {
            let tls = api::Tls::new(&read("GRPC_TLS_CERTIFICATE", certificate)?, &read("GRPC_TLS_KEY", key)?);
            Ok(Some(tls.map_err(|why| Error(format!("GRPC_TLS_CERTIFICATE and GRPC_TLS_KEY: {why}")))?))
        }
        (Some(_), None) => Err(Error("GRPC_TLS_CERTIFICATE is set, and GRPC_TLS_KEY is not".into())),
        (None, Some(_)) => Err(Error("GRPC_TLS_KEY is set, and GRPC_TLS_CERTIFICATE is not".into())),
    }
}
