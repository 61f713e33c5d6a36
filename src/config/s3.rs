//! The settings of the bucket. A wrong value stops the start whoever needs it; a missing one only whoever does.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::bucket;
use crate::config::Error;
use crate::config::variables::Variables;

/// A writer of archives looks as often whose the bucket is, at least.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// `Err` within says what is missing.
pub(super) fn bucket_settings(variables: &Variables) -> Result<Result<bucket::Settings, String>, Error> {
    let endpoint = variables.s3_endpoint.as_deref().map(|value| checked("S3_ENDPOINT", value)).transpose()?;
    let bucket = variables.s3_bucket.as_deref().map(|value| checked("S3_BUCKET", value)).transpose()?;
    check_region(&variables.s3_region)?;
    let missing = |name: &str| format!("{name} is not set");
    Ok((|| {
        Ok(bucket::Settings {
            endpoint: endpoint.ok_or_else(|| missing("S3_ENDPOINT"))?,
            credentials: bucket::Credentials {
                access_key: variables.s3_access_key.clone().ok_or_else(|| missing("S3_ACCESS_KEY"))?,
                secret_key: variables.s3_secret_key.clone().ok_or_else(|| missing("S3_SECRET_KEY"))?,
            },
            bucket: bucket.ok_or_else(|| missing("S3_BUCKET"))?,
            ssl: variables.s3_ssl,
            region: variables.s3_region.clone(),
            cache_bytes_max: variables.s3_cache_bytes,
            reads_max: variables.s3_reads_max,
            is_read_only: variables.s3_read_only,
            look_interval: LOOK_INTERVAL,
        })
    })())
}

fn checked<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, Error> {
    // What stands in front of an @ in an address is a password.
    let shown = if value.contains('@') { String::new() } else { format!(" {value:?}") };
    value.parse().map_err(|why| Error(format!("{name} cannot be{shown}: {why}")))
}

/// It is part of what is signed, between slashes.
fn check_region(region: &str) -> Result<(), Error> {
    if region.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Ok(());
    }
    Err(Error(format!("S3_REGION cannot be {region:?}: a region has letters, digits and hyphens only")))
}
