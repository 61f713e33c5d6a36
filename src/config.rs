//! The only reader of the environment. Everything that can be set has its name, its default and its check in here; the
//! table of the README is this file in prose.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::api;
use crate::bucket;
use crate::event;
use crate::store;

/// Why the process cannot start: one line that names the variable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// The environment, variable by variable: `STREAMS_ARCHIVE` is `streams_archive`.
#[derive(Debug, Clone, Deserialize)]
struct Variables {
    postgres_connection: Option<String>,
    postgres_direct_connection: Option<String>,
    #[serde(default = "defaults::postgres_connections_max")]
    postgres_connections_max: u32,
    #[serde(default = "defaults::http_addr")]
    http_addr: SocketAddr,
    #[serde(default = "defaults::grpc_addr")]
    grpc_addr: SocketAddr,
    grpc_tls_certificate: Option<PathBuf>,
    grpc_tls_key: Option<PathBuf>,
    config_file: Option<PathBuf>,
    #[serde(default = "defaults::log_level")]
    log_level: String,
    #[serde(default = "defaults::log_format")]
    log_format: LogFormat,

    #[serde(default)]
    streams_archive: bool,
    #[serde(default = "defaults::streams_archive_size")]
    streams_archive_size: u64,
    #[serde(default = "defaults::streams_archive_older_than_days")]
    streams_archive_older_than_days: u32,
    #[serde(default = "defaults::streams_archive_interval_seconds")]
    streams_archive_interval_seconds: u64,
    #[serde(default = "defaults::streams_archive_lease_seconds")]
    streams_archive_lease_seconds: u64,
    #[serde(default)]
    streams_start_unreconciled: bool,
    #[serde(default = "defaults::streams_scrub_bytes_per_second")]
    streams_scrub_bytes_per_second: u64,

    #[serde(default = "defaults::streams_consistency_wait_seconds")]
    streams_consistency_wait_seconds: u64,

    s3_endpoint: Option<String>,
    s3_access_key: Option<String>,
    s3_secret_key: Option<String>,
    s3_bucket: Option<String>,
    #[serde(default = "defaults::s3_ssl")]
    s3_ssl: bool,
    #[serde(default = "defaults::s3_region")]
    s3_region: String,
    #[serde(default = "defaults::s3_cache_bytes")]
    s3_cache_bytes: u64,
    #[serde(default = "defaults::s3_reads_max")]
    s3_reads_max: usize,
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

/// `CONFIG_FILE`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConfigFile {
    delete_after_consumption: BTreeMap<String, PartialPersistence>,
    delete_after_parallel_consumption: BTreeMap<String, PartialPersistence>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PartialPersistence {
    required_consumption_groups: Vec<String>,
}

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

/// Topics whose events are deleted once they are consumed, and by whom. They are never archived.
fn required_groups(path: Option<&Path>) -> Result<store::RequiredGroups, Error> {
    let Some(path) = path else { return Ok(store::RequiredGroups::default()) };
    let wrong = |why: &dyn std::fmt::Display| Error(format!("CONFIG_FILE {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let ConfigFile { delete_after_consumption, delete_after_parallel_consumption } = match text.trim() {
        "" => ConfigFile::default(),
        text => serde_norway::from_str(text).map_err(|error| wrong(&error))?,
    };
    let groups = |topics: BTreeMap<String, PartialPersistence>| {
        let checked = topics.into_iter().map(|(topic, PartialPersistence { required_consumption_groups })| {
            if required_consumption_groups.is_empty() {
                return Err(wrong(&format!(
                    "requiredConsumptionGroups of {topic:?} is empty: its events would go at once"
                )));
            }
            Ok((topic, required_consumption_groups))
        });
        checked.collect::<Result<BTreeMap<_, _>, _>>()
    };
    let (normal, parallel) = (groups(delete_after_consumption)?, groups(delete_after_parallel_consumption)?);
    Ok(store::RequiredGroups { normal, parallel })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3: [(&str, &str); 4] =
        [("S3_ENDPOINT", "s3:9000"), ("S3_ACCESS_KEY", "a"), ("S3_SECRET_KEY", "b"), ("S3_BUCKET", "events")];

    fn config(variables: &[(&str, &str)]) -> Result<Config, String> {
        let postgres = [("POSTGRES_CONNECTION", "postgres://localhost/events")];
        let all = postgres.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_variables(all).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_but_a_database_is_needed() {
        let config = config(&[]).unwrap();
        assert!(!config.archive);
        assert_eq!(config.http_addr.to_string(), "127.0.0.1:3000");
        assert_eq!(config.grpc_addr.to_string(), "127.0.0.1:9000");
        assert_eq!(config.store.eligibility.batch_size, 100_000);
        assert_eq!(config.store.eligibility.older_than_days, 30);
        assert_eq!(config.archive_interval, Duration::from_secs(60));
        assert_eq!(config.scrub_bytes_per_second, 1_000_000);
        assert_eq!(config.bucket().unwrap_err().to_string(), "S3_ENDPOINT is not set");
    }

    #[test]
    fn archiving_needs_a_bucket() {
        for (missing, (name, _)) in S3.iter().enumerate() {
            let mut variables = vec![("STREAMS_ARCHIVE", "true")];
            variables.extend(S3.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, pair)| *pair));
            let expected = format!("STREAMS_ARCHIVE is true, and {name} is not set");
            assert_eq!(config(&variables).unwrap_err(), expected);
            variables.push((name, "  "));
            assert!(config(&variables).is_err(), "an empty value is none");
        }
        let bucket = config(&S3).unwrap().bucket().unwrap().clone();
        assert!(bucket.ssl);
        assert_eq!(bucket.region, "us-east-1");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_variable() {
        let wrong = [
            ("STREAMS_ARCHIVE", "yes"),
            ("STREAMS_ARCHIVE_SIZE", "0"),
            ("STREAMS_ARCHIVE_SIZE", "-1"),
            ("STREAMS_ARCHIVE_SIZE", "99999999999"),
            ("STREAMS_ARCHIVE_OLDER_THAN_DAYS", "a month"),
            ("STREAMS_ARCHIVE_INTERVAL_SECONDS", "0"),
            ("STREAMS_START_UNRECONCILED", "1"),
            ("STREAMS_SCRUB_BYTES_PER_SECOND", "1 MB"),
            ("S3_SSL", "1"),
            ("HTTP_ADDR", "localhost"),
            ("GRPC_ADDR", ":9000"),
            ("LOG_FORMAT", "xml"),
            ("CONFIG_FILE", "/nowhere/config.yaml"),
            ("GRPC_TLS_CERTIFICATE", "certificate.pem"),
            ("GRPC_TLS_KEY", "key.pem"),
        ];
        for (name, value) in wrong {
            let error = config(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && !error.contains('\n'), "{name}={value}: {error}");
        }
        let mut variables = S3.to_vec();
        variables[0].1 = "http://s3:9000";
        variables.push(("STREAMS_ARCHIVE", "true"));
        assert!(config(&variables).unwrap_err().contains("S3_ENDPOINT"));
        assert_eq!(
            Config::from_variables([]).unwrap_err().to_string(),
            "POSTGRES_CONNECTION is not set: postgres://user:password@host:5432/database"
        );
    }

    #[test]
    fn a_certificate_that_is_none_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for (certificate, key) in [(path, "/nowhere/key.pem"), (path, path)] {
            let error = config(&[("GRPC_TLS_CERTIFICATE", certificate), ("GRPC_TLS_KEY", key)]).unwrap_err();
            assert!(error.starts_with("GRPC_TLS_"), "{error}");
        }
    }

    #[test]
    fn topics_that_are_deleted_are_excluded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let write = |text: &str| std::fs::write(path, text).unwrap();
        write(
            "deleteAfterConsumption:\n  mails: { requiredConsumptionGroups: [a] }\n\
               deleteAfterParallelConsumption:\n  pings: { requiredConsumptionGroups: [a, b] }\n",
        );
        let settings = config(&[("CONFIG_FILE", path)]).unwrap().store;
        assert_eq!(settings.eligibility.excluded_topics, ["mails", "pings"].map(str::to_owned).into());
        let required = settings.subscribing.required_groups;
        assert_eq!((&required.normal["mails"], required.normal.len()), (&vec!["a".to_owned()], 1));
        assert_eq!(required.parallel["pings"], ["a", "b"]);
        for text in ["deleteAfter: {}", "deleteAfterConsumption:\n  mails: { requiredConsumptionGroups: [] }\n", "- x"]
        {
            write(text);
            assert!(config(&[("CONFIG_FILE", path)]).unwrap_err().contains("CONFIG_FILE"), "{text}");
        }
    }
}
