//! The settings of the bucket. A wrong value stops every command; a missing one stops only a command that needs a
//! bucket.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::bucket::{self, Addressing, BucketName, Credentials, Encryption, Endpoint, Writing};
use crate::config::Error;
use crate::config::variables::{Sse, Variables};

/// The longest time between two looks of a writer at the marker of its bucket.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Returns the settings of the bucket. The inner `Err` names the missing variable.
pub(super) fn bucket_settings(variables: &Variables) -> Result<Result<bucket::Settings, String>, Error> {
    let endpoint = variables.s3_endpoint.as_deref().map(|value| checked("S3_ENDPOINT", value)).transpose()?;
    let bucket = variables.s3_bucket.as_deref().map(|value| checked("S3_BUCKET", value)).transpose()?;
    check_region(&variables.s3_region)?;
    if variables.s3_addressing == Addressing::Virtual
        && let (Some(endpoint), Some(bucket)) = (&endpoint, &bucket)
    {
        check_virtual(endpoint, bucket, variables.s3_ssl)?;
    }
    let writing = writing(variables)?;
    let missing = |name: &str| format!("{name} is not set");
    Ok((|| {
        Ok(bucket::Settings {
            endpoint: endpoint.ok_or_else(|| missing("S3_ENDPOINT"))?,
            credentials: match (variables.s3_access_key.clone(), variables.s3_secret_key.clone()) {
                (Some(access_key), Some(secret_key)) => Credentials::Keys { access_key, secret_key },
                (None, None) => Credentials::Machine,
                (None, Some(_)) => return Err(missing("S3_ACCESS_KEY")),
                (Some(_), None) => return Err(missing("S3_SECRET_KEY")),
            },
            bucket: bucket.ok_or_else(|| missing("S3_BUCKET"))?,
            ssl: variables.s3_ssl,
            addressing: variables.s3_addressing,
            region: variables.s3_region.clone(),
            writing,
            cache_bytes_max: variables.s3_cache_bytes,
            reads_max: variables.s3_reads_max,
            is_read_only: variables.s3_read_only,
            look_interval: LOOK_INTERVAL,
        })
    })())
}

fn check_virtual(endpoint: &Endpoint, bucket: &BucketName, ssl: bool) -> Result<(), Error> {
    let why = match () {
        () if endpoint.is_ip() => "S3_ENDPOINT is an IP address",
        () if !bucket.is_host() => "S3_BUCKET is an old name that cannot stand in front of a host",
        () if ssl && !bucket.is_label() => "S3_BUCKET has dots, which certificates for *.host do not cover",
        () => return Ok(()),
    };
    Err(Error(format!("S3_ADDRESSING cannot be virtual: {why}")))
}

fn writing(variables: &Variables) -> Result<Writing, Error> {
    let key_id = variables.s3_sse_kms_key_id.clone();
    if let Some(key_id) = &key_id
        && !key_id.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Error(format!("S3_SSE_KMS_KEY_ID cannot be {key_id:?}: a key's id or ARN has no white space")));
    }
    let encryption = match variables.s3_sse {
        Some(Sse::Kms) => Some(Encryption::Kms { key_id }),
        _ if key_id.is_some() => return Err(Error("S3_SSE_KMS_KEY_ID is set, and S3_SSE is not aws:kms".into())),
        Some(Sse::Aes256) => Some(Encryption::Aes256),
        None => None,
    };
    let storage_class = variables.s3_storage_class.clone();
    if let Some(class) = &storage_class {
        check_storage_class(class)?;
    }
    Ok(Writing { encryption, storage_class, checksum: variables.s3_checksum })
}

/// Checks that objects of the class can be read at once: archives are read back as soon as they are written, and
/// whenever a client asks for their events.
fn check_storage_class(class: &str) -> Result<(), Error> {
    let why = match class {
        "GLACIER" | "DEEP_ARCHIVE" => "objects of this class cannot be read at once",
        _ if class.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') => {
            return Ok(());
        }
        _ => "a class is written like STANDARD_IA",
    };
    Err(Error(format!("S3_STORAGE_CLASS cannot be {class:?}: {why}")))
}

fn checked<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, Error> {
    // The text in front of an @ in an address is a password.
    let shown = if value.contains('@') { String::new() } else { format!(" {value:?}") };
    value.parse().map_err(|why| Error(format!("{name} cannot be{shown}: {why}")))
}

/// Checks the region, which stands between slashes in the text that is signed.
fn check_region(region: &str) -> Result<(), Error> {
    if region.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Ok(());
    }
    Err(Error(format!("S3_REGION cannot be {region:?}: a region has letters, digits and hyphens only")))
}
