//! The settings to reach a bucket and write to it. Values are checked when they are parsed, so that none can turn an
//! address or a header into another one.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use crate::bucket::request::Request;

const ENCRYPTION: &str = "x-amz-server-side-encryption";

#[derive(Debug, Clone)]
pub struct Settings {
    pub endpoint: Endpoint,
    pub credentials: Credentials,
    pub ssl: bool,
    pub bucket: BucketName,
    pub addressing: Addressing,
    pub region: String,
    pub writing: Writing,
    /// The most bytes of decoded members that are kept in memory.
    pub cache_bytes_max: u64,
    /// The most ranged reads that are under way at once.
    pub reads_max: usize,
    /// Every write is refused, whoever owns the bucket.
    pub is_read_only: bool,
    /// The longest time between two looks of a writer at the marker.
    pub look_interval: Duration,
}

#[derive(Clone)]
pub enum Credentials {
    Keys {
        access_key: String,
        secret_key: String,
    },
    /// The machine's credentials, by what AWS calls the default chain: `AWS_ACCESS_KEY_ID` and its like, a web
    /// identity, the role of the container, the role of the instance.
    Machine,
}

/// Never shows a key.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Credentials::Keys { .. } => "Keys",
            Credentials::Machine => "Machine",
        })
    }
}

/// The place of the bucket's name in an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Addressing {
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    Virtual,
}

/// The options with which every object is written.
#[derive(Debug, Clone, Default)]
pub struct Writing {
    pub encryption: Option<Encryption>,
    /// The storage class of archives; other objects get none.
    pub storage_class: Option<String>,
    /// The checksum that objects bear; `None` stands for SHA-256, and for MD5 once a server is found not to take that.
    pub checksum: Option<Checksum>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    Aes256,
    Kms { key_id: Option<String> },
}

/// The checksum by which the server is to check arriving bytes. Buckets with a default retention take no object without
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// `x-amz-checksum-sha256`
    Sha256,
    /// `Content-MD5`
    Md5,
    Off,
}

impl Writing {
    /// Adds the headers for a request that makes an object or begins an upload.
    pub(super) fn object(&self, request: Request) -> Request {
        match &self.encryption {
            None => request,
            Some(Encryption::Aes256) => request.header(ENCRYPTION, "AES256"),
            Some(Encryption::Kms { key_id: None }) => request.header(ENCRYPTION, "aws:kms"),
            Some(Encryption::Kms { key_id: Some(key_id) }) => {
                request.header(ENCRYPTION, "aws:kms").header("x-amz-server-side-encryption-aws-kms-key-id", key_id)
            }
        }
    }

    /// Adds the headers for a request that begins the upload of an archive.
    pub(super) fn archive(&self, request: Request) -> Request {
        let request = self.object(request);
        match &self.storage_class {
            Some(class) => request.header("x-amz-storage-class", class),
            None => request,
        }
    }
}

/// The reason why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(&'static str);

/// A host and a port, or a host alone if the port is that of the scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl FromStr for Endpoint {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Endpoint, Unusable> {
        if text.contains("://") {
            return Err(Unusable("host:port is needed, without a scheme; S3_SSL says whether it is https"));
        }
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(Unusable("an IPv6 address needs brackets, such as [::1]:9000"));
        }
        let needed = Unusable("host:port is needed, such as s3.example.com:443, 192.0.2.1:9000 or [::1]:9000");
        // The default port of this scheme is one that nobody means, so that every other one is seen.
        let url = Url::parse(&format!("ftp://{text}")).map_err(|_| needed.clone())?;
        let is_more = text.contains(|letter: char| "/\\?#@%".contains(letter) || letter.is_whitespace());
        if is_more || text.ends_with(':') || url.port() == Some(0) {
            Err(needed)
        } else {
            Ok(Endpoint(text.to_owned()))
        }
    }
}

impl Endpoint {
    /// Returns whether the host is an IP address, in front of which no bucket's name can stand.
    pub fn is_ip(&self) -> bool {
        let url = Url::parse(&format!("http://{self}")).ok();
        matches!(url.as_ref().and_then(Url::host), Some(Host::Ipv4(_) | Host::Ipv6(_)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A name that S3 or a server like it takes for a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketName(String);

const BUCKET_NAME_CHARS_MIN: usize = 3;
/// The most characters of an old name; a name that is given today has 63 at most.
const BUCKET_NAME_CHARS_MAX: usize = 255;
const LABEL_CHARS_MAX: usize = 63;

impl FromStr for BucketName {
    type Err = Unusable;

    /// Applies S3's rules for names, and those for old buckets: capital letters, underscores, and more than 63
    /// characters. None of that means anything in an address.
    fn from_str(text: &str) -> Result<BucketName, Unusable> {
        let is_edge = |letter: Option<u8>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
            return Err(Unusable("a bucket's name has letters, digits, dots, hyphens and underscores only"));
        }
        if !(BUCKET_NAME_CHARS_MIN..=BUCKET_NAME_CHARS_MAX).contains(&text.len()) {
            return Err(Unusable("a bucket's name has 3 to 63 characters, or up to 255 if it is an old one"));
        }
        if !is_edge(text.bytes().next()) || !is_edge(text.bytes().last()) || text.contains("..") {
            return Err(Unusable(
                "a bucket's name begins and ends with a letter or a digit, and has no two dots in a row",
            ));
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(Unusable("a bucket's name is no IP address"));
        }
        Ok(BucketName(text.to_owned()))
    }
}

impl BucketName {
    /// Returns whether the name can stand in front of a host.
    pub fn is_host(&self) -> bool {
        self.0.len() <= LABEL_CHARS_MAX && !self.0.contains(|letter: char| letter == '_' || letter.is_ascii_uppercase())
    }

    /// Returns whether certificates for `*.host` cover the name in front of the host.
    pub fn is_label(&self) -> bool {
        self.is_host() && !self.0.contains('.')
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_name_that_s3_takes() {
        let longest = "a".repeat(BUCKET_NAME_CHARS_MAX);
        for name in ["abc", "my-events.2024", "0-9", "Legacy_Name", &longest] {
            assert_eq!(name.parse::<BucketName>().unwrap().as_str(), name);
        }
        let long = format!("{longest}a");
        let wrong = [
            "",
            "ab",
            &long,
            "precious#2",
            "precious?x",
            "a/b/c",
            "../etc",
            "a..b",
            "-abc",
            "abc-",
            ".abc",
            "abc.",
            "_abc",
            "192.168.5.4",
            "häuser",
            "a b c",
            "abc%2f",
            "arn:aws:s3:::abc",
            "a\\b",
            "a\nb",
            "...",
        ];
        for name in wrong {
            assert!(name.parse::<BucketName>().is_err(), "{name}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for (text, is_ip) in [
            ("s3:9000", false),
            ("S3.example.com", false),
            ("s3.example.com:443", false),
            ("s3.example.com:21", false),
            ("192.0.2.1:9000", true),
            ("[::1]:9000", true),
            ("[2001:db8::1]", true),
        ] {
            let endpoint = text.parse::<Endpoint>().unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((endpoint.to_string(), endpoint.is_ip()), (text.to_owned(), is_ip));
        }
        let wrong = [
            "",
            ":9000",
            "s3:",
            "s3:0",
            "s3:65536",
            "s3:http",
            "::1",
            "[::1",
            "http://s3:9000",
            "s3:9000/path",
            "s3:9000/",
            "s3?x",
            "s3#x",
            "user:secret@s3:9000",
            "s3 9000",
            "s3:90 00",
            "s3\\x",
            "s3:9000 # a comment",
            "300.1.1.1",
        ];
        for text in wrong {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
