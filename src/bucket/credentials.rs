//! The credentials of requests: keys that were set, or keys that the machine gives.
//!
//! object_store knows how machines give credentials, and asks for new ones five minutes before the old ones expire. It
//! reads `AWS_…` from the environment by itself, where the platforms put them. While it cannot get new ones, the old
//! ones are used: the server decides whether they still are good.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential, AwsCredentialProvider};
use object_store::{BackoffConfig, ClientOptions, RetryConfig, StaticCredentialProvider};
use parking_lot::Mutex;

use crate::bucket::advice::root_cause;
use crate::bucket::{Credentials, Error, Settings};

/// The deadline for a connection. The machine's source of credentials is close by, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The deadline for all requests that it takes to get credentials.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: usize = 3;

pub struct CredentialSource {
    provider: AwsCredentialProvider,
    /// The last credentials that the provider gave.
    last: Mutex<Option<Arc<AwsCredential>>>,
}

impl CredentialSource {
    pub fn new(settings: &Settings) -> Result<CredentialSource, Error> {
        let provider = match settings.credentials.clone() {
            Credentials::Keys { access_key: key_id, secret_key } => {
                Arc::new(StaticCredentialProvider::new(AwsCredential { key_id, secret_key, token: None }))
            }
            Credentials::Machine => {
                of_machine(settings).map_err(|why| Error::NoCredentials { why: root_cause(&why) })?
            }
        };
        Ok(CredentialSource { provider, last: Mutex::default() })
    }

    pub async fn get(&self) -> Result<Arc<AwsCredential>, Error> {
        let answer = tokio::time::timeout(TIMEOUT, self.provider.get_credential()).await;
        let last = || self.last.lock();
        let why = match answer {
            Ok(Ok(credential)) => {
                *last() = Some(Arc::clone(&credential));
                return Ok(credential);
            }
            Ok(Err(error)) => root_cause(&error),
            Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        tracing::debug!(why, "the machine gives no new credentials");
        last().clone().ok_or(Error::NoCredentials { why })
    }
}

fn of_machine(settings: &Settings) -> object_store::Result<AwsCredentialProvider> {
    let retry = RetryConfig {
        backoff: BackoffConfig { max_backoff: CONNECT_TIMEOUT, ..BackoffConfig::default() },
        max_retries: ATTEMPTS - 1,
        retry_timeout: TIMEOUT,
    };
    let options = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(TIMEOUT);
    let service = AmazonS3Builder::from_env()
        .with_bucket_name(settings.bucket.as_str())
        .with_region(&settings.region)
        .with_client_options(options)
        .with_retry(retry)
        .build()?;
    Ok(Arc::clone(service.credentials()))
}
