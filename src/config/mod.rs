//! The only reader of the environment. Everything that can be set has its name, its default and its check in this
//! module; docs/configuration.md is the module in prose.

mod dotenv;
mod file;
mod names;
mod s3;
mod secrets;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api;
use crate::bucket;
use crate::config::file::required_groups;
use crate::config::s3::bucket_settings;
use crate::config::variables::Variables;
use crate::event;
use crate::store;

pub use s3::LOOK_INTERVAL;
pub use variables::LogFormat;

/// The reason why the process cannot start: one line that names the variable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The settings of each room.
#[derive(Debug, Clone)]
pub struct Config {
    pub postgres_connection: String,
    pub postgres_direct_connection: String,
    pub postgres_connections_max: u32,
    pub postgres_timeout: Duration,
    pub http_addr: SocketAddr,
    pub grpc_addr: SocketAddr,
    pub http: api::HttpSettings,
    pub grpc: api::GrpcSettings,
    /// The time that work in flight has to end once the process was asked to end.
    pub shutdown_timeout: Duration,
    pub log_level: String,
    pub log_format: LogFormat,
    /// Old events are archived. They are not if the bucket is only read.
    pub archive: bool,
    pub archive_interval: Duration,
    /// A database that does not know all archives of its bucket is served all the same.
    pub start_unreconciled: bool,
    /// The bytes that scrubs may read a second; 0 for no scrubs at all.
    pub scrub_bytes_per_second: u64,
    pub store: store::Settings,
    /// The settings of the bucket; `Err` says what is missing, for a command that needs a bucket.
    bucket: Result<bucket::Settings, String>,
    /// Oddities of the settings that do not keep the process from starting, to be logged.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads `.env` in the working directory, and the environment, whose variables win.
    pub fn from_environment() -> Result<Config, Error> {
        let known = names::known();
        let mut variables = dotenv::read(Path::new(".env"))?;
        let unread = variables.keys().filter(|name| names::is_read_by_libraries(name));
        let unread: Vec<String> =
            unread.map(|name| format!("{name} is in .env and is not read: set it in the environment")).collect();
        for (name, value) in std::env::vars_os() {
            // A variable that is not in Unicode is another program's, unless it bears a name of ours.
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => drop(variables.insert(name, value)),
                (Ok(name), Err(_)) if known.contains(&name) => return Err(Error(format!("{name} is not in UTF-8"))),
                _ => {}
            }
        }
        let mut config = Config::from_variables(variables)?;
        config.warnings.extend(unread);
        Ok(config)
    }

    /// Reads variables. An empty value is as good as none, and white space around a value means nothing.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Config, Error> {
        let (set, warnings) = sorted_out(variables)?;
        let variables = Variables::read(&set)?;
        let bucket = bucket_settings(&variables)?;
        if let (true, Err(missing)) = (variables.streams_archive, &bucket) {
            return Err(Error(format!("STREAMS_ARCHIVE is true, and {missing}")));
        }
        let postgres_connection = variables.postgres_connection.clone().ok_or_else(|| {
            Error("POSTGRES_CONNECTION is not set: postgres://user:password@host:5432/database".into())
        })?;
        let store = store_settings(&variables)?;
        Ok(Config {
            postgres_direct_connection: variables.postgres_direct_connection.unwrap_or(postgres_connection.clone()),
            postgres_connection,
            postgres_connections_max: variables.postgres_connections_max,
            postgres_timeout: Duration::from_secs(variables.postgres_timeout_seconds),
            http_addr: variables.http_addr,
            grpc_addr: variables.grpc_addr,
            http: api::HttpSettings {
                connections_max: variables.http_connections_max,
                timeout: Duration::from_secs(variables.http_timeout_seconds),
            },
            grpc: api::GrpcSettings {
                connections_max: variables.grpc_connections_max,
                keepalive: Duration::from_secs(variables.grpc_keepalive_seconds),
                tls: grpc_tls(&variables.grpc_tls_certificate, &variables.grpc_tls_key)?,
            },
            shutdown_timeout: Duration::from_secs(variables.shutdown_seconds),
            log_level: variables.log_level,
            log_format: variables.log_format,
            archive: variables.streams_archive && !variables.s3_read_only,
            archive_interval: Duration::from_secs(variables.streams_archive_interval_seconds),
            start_unreconciled: variables.streams_start_unreconciled,
            scrub_bytes_per_second: variables.streams_scrub_bytes_per_second,
            store,
            bucket,
            warnings,
        })
    }

    /// Returns the settings of the bucket, or an error that names the missing variable.
    pub fn bucket(&self) -> Result<&bucket::Settings, Error> {
        self.bucket.as_ref().map_err(|missing| Error(missing.clone()))
    }
}

/// Returns the variables that are set, with the secrets from files, and warnings about names that look like ours.
fn sorted_out(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(BTreeMap<String, String>, Vec<String>), Error> {
    let known = names::known();
    let (mut set, mut warnings) = (BTreeMap::new(), Vec::new());
    for (name, value) in variables.into_iter().filter(|(_, value)| !value.trim().is_empty()) {
        if known.contains(&name) {
            set.insert(name.clone(), one_line(&name, &value)?);
        } else {
            warnings.extend(names::suspicion(&name, &known));
        }
    }
    secrets::read_files(&mut set)?;
    Ok((set, warnings))
}

fn store_settings(variables: &Variables) -> Result<store::Settings, Error> {
    let required_groups = required_groups(variables.config_file.as_deref())?;
    let deleted = required_groups.normal.keys().chain(required_groups.parallel.keys());
    let eligibility = event::Eligibility {
        older_than_days: variables.streams_archive_older_than_days,
        excluded_topics: deleted.cloned().collect(),
        batch_size: variables.streams_archive_size,
    };
    Ok(store::Settings {
        eligibility,
        lease_term: Duration::from_secs(variables.streams_archive_lease_seconds),
        takeover_wait: Duration::from_secs(variables.s3_takeover_seconds),
        subscribing: store::SubscribingSettings {
            required_groups,
            consistency_wait: Duration::from_secs(variables.streams_consistency_wait_seconds),
            delivery_attempts_max: variables.streams_delivery_attempts_max.into(),
        },
        event_bytes_max: variables.event_bytes_max as usize,
        reading: store::ReadingSettings {
            bytes_max: variables.streams_read_bytes_max,
            wait: Duration::from_secs(variables.streams_read_wait_seconds),
        },
    })
}

/// Trims a value, since one from a file or from a program often has a line break behind it, and refuses a line break
/// within it.
fn one_line(name: &str, value: &str) -> Result<String, Error> {
    let value = value.trim();
    if value.contains(char::is_control) {
        return Err(Error(format!("{name} has a line break or another control character within")));
    }
    Ok(value.to_owned())
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
