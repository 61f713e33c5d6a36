//! Advice for an operator about a request that was refused, or a connection that failed.

use http::Method;

use crate::bucket::documents::element;
use crate::bucket::request::Request;

/// The error codes of S3 and the servers like it, each with the cause or the setting to change.
const KNOWN: [(&str, &str); 20] = [
    ("RequestTimeTooSkewed", "the clock of this machine is wrong, or the server's is: set it"),
    ("RequestExpired", "the clock of this machine is wrong, or the server's is: set it"),
    (
        "SignatureDoesNotMatch",
        "S3_SECRET_KEY does not belong to S3_ACCESS_KEY, or something on the way changes requests",
    ),
    ("InvalidAccessKeyId", "S3_ACCESS_KEY is not known there: it was revoked, or belongs to another server"),
    ("InvalidToken", "the session token does not belong to these keys"),
    ("ExpiredToken", "the credentials have expired"),
    ("TokenRefreshRequired", "the credentials have expired"),
    ("NoSuchBucket", "S3_BUCKET or S3_ENDPOINT is not the right one"),
    ("BucketAlreadyExists", "somebody else has a bucket of this name: choose another S3_BUCKET"),
    ("InvalidBucketName", "the server does not take this S3_BUCKET for a name"),
    ("TooManyBuckets", "no more buckets may be made: make room, or set S3_BUCKET to one that is there"),
    ("SecondLevelDomainForbidden", "the server wants S3_ADDRESSING=virtual"),
    ("InvalidStorageClass", "the server does not know this S3_STORAGE_CLASS"),
    ("InvalidEncryptionAlgorithmError", "the server does not know this S3_SSE"),
    ("InvalidDigest", "the server does not take this checksum: set S3_CHECKSUM"),
    ("BadDigest", "other bytes arrived than were sent: something on the way changes requests"),
    ("XAmzContentSHA256Mismatch", "other bytes arrived than were sent: something on the way changes requests"),
    ("QuotaExceeded", "there is no room left"),
    ("XMinioStorageFull", "there is no room left"),
    ("AllAccessDisabled", "the owner of the bucket has closed it"),
];
const ELSEWHERE: [&str; 5] = [
    "PermanentRedirect",
    "TemporaryRedirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "IncorrectEndpoint",
];
/// The codes of a server that does not understand something in a request.
const NOT_TAKEN: [&str; 5] = ["NotImplemented", "XNotImplemented", "InvalidRequest", "InvalidArgument", "MalformedXML"];
const MESSAGE_CHARS_MAX: usize = 200;

/// The parts of a refusal that say why; the region is that of its header.
pub(super) struct Refusal<'a> {
    pub request: &'a Request,
    pub status: u16,
    pub code: &'a str,
    pub region: Option<&'a str>,
    pub body: &'a str,
}

impl Refusal<'_> {
    /// The advice for an operator; empty if nothing is known.
    pub(super) fn advice(&self) -> String {
        let Refusal { request, status, code, region, body } = self;
        let known = KNOWN.iter().find(|(known, _)| known == code).map(|(_, advice)| (*advice).to_owned());
        let region = region.map(str::to_owned).or_else(|| element(body, "Region")).filter(|region| is_region(region));
        match status {
            _ if known.is_some() => known.unwrap_or_default(),
            _ if ELSEWHERE.contains(code) || matches!(status, 301 | 302 | 307 | 308) => match region {
                Some(region) => {
                    format!("the bucket is in another region: set S3_REGION={region}, and S3_ENDPOINT to that region's")
                }
                None => "the bucket is elsewhere: set S3_REGION and S3_ENDPOINT to its own".to_owned(),
            },
            // A refused HEAD has only its region to say.
            400 if code.is_empty() && region.is_some() => {
                format!("the bucket is in another region: set S3_REGION={}", region.unwrap_or_default())
            }
            400 if body.contains("HTTPS") => "the endpoint speaks TLS: set S3_SSL=true".to_owned(),
            _ if code.starts_with("KMS.") => {
                format!("the key of S3_SSE_KMS_KEY_ID, or of the bucket, cannot be used: {}", self.message())
            }
            401 | 403 if code.is_empty() || *code == "AccessDenied" => denied(request),
            400 | 501 if request.is_written() && NOT_TAKEN.contains(code) => {
                format!("{} (S3_CHECKSUM, S3_SSE and S3_STORAGE_CLASS say what is sent)", self.message())
            }
            _ => self.message(),
        }
    }

    /// The server's own message, without control characters.
    fn message(&self) -> String {
        let message = element(self.body, "Message").unwrap_or_default();
        message.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MESSAGE_CHARS_MAX).collect()
    }
}

/// The advice that names the missing right, as AWS calls it. A refusal does not say whether the keys or a policy caused
/// it.
fn denied(request: &Request) -> String {
    let right = right(request);
    if request.is_written() {
        return format!(
            "{right} is not granted, or a policy asks for S3_SSE, S3_STORAGE_CLASS, S3_CHECKSUM or S3_SSL=true"
        );
    }
    if request.method() == Method::DELETE {
        return format!("{right} is not granted, or the object is held or retained");
    }
    format!("{right} is not granted")
}

fn right(request: &Request) -> &'static str {
    let has = |name| request.has_query(name);
    match (request.method(), request.key().is_empty()) {
        (&Method::PUT, true) => "s3:CreateBucket",
        (_, true) if has("versions") => "s3:ListBucketVersions",
        (_, true) if has("uploads") => "s3:ListBucketMultipartUploads",
        (_, true) if has("versioning") => "s3:GetBucketVersioning",
        (_, true) if has("object-lock") => "s3:GetBucketObjectLockConfiguration",
        (_, true) => "s3:ListBucket",
        (&Method::DELETE, false) if has("uploadId") => "s3:AbortMultipartUpload",
        (&Method::DELETE, false) if has("versionId") => "s3:DeleteObjectVersion",
        (&Method::DELETE, false) => "s3:DeleteObject",
        (&Method::PUT | &Method::POST, false) => "s3:PutObject",
        (_, false) if has("versionId") => "s3:GetObjectVersion",
        (_, false) => "s3:GetObject",
    }
}

/// The advice about a connection that failed; rustls and hyper say why in these words.
pub(super) fn of_failure(cause: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if says(&["InvalidContentType"]) {
        Some("the endpoint does not speak TLS: S3_SSL=false is for plain text")
    } else if cause.starts_with("invalid HTTP") {
        Some("the endpoint does not speak plain HTTP: S3_SSL=true is for TLS")
    } else if says(&["UnknownIssuer", "CaUsedAsEndEntity", "BadSignature"]) {
        Some("set SSL_CERT_FILE to a file with the certificate of the CA")
    } else if says(&["not valid for name", "NotValidForName"]) {
        Some("the certificate is for another name than S3_ENDPOINT")
    } else if says(&["certificate expired", "Expired"]) {
        Some("the server's certificate has to be renewed, or the clock of this machine is wrong")
    } else {
        None
    }
}

/// Returns whether a region is no more than a name, so that it may go into a line for an operator.
fn is_region(region: &str) -> bool {
    !region.is_empty() && region.len() <= 64 && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The innermost cause of an error: reqwest's own message repeats the URL.
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(request: &Request, status: u16, region: Option<&str>, body: &str) -> String {
        Refusal { request, status, code: &element(body, "Code").unwrap_or_default(), region, body }.advice()
    }

    #[test]
    fn a_known_code_says_what_to_do() {
        let list = Request::new(Method::GET, "").query("list-type", "2");
        let region = Some("eu-central-1");
        for (status, region, body, expected) in [
            (301, region, "<Code>PermanentRedirect</Code>", "S3_REGION=eu-central-1"),
            (301, region, "", "S3_REGION=eu-central-1"),
            (400, region, "", "S3_REGION=eu-central-1"),
            (301, None, "<Code>PermanentRedirect</Code>", "set S3_REGION and S3_ENDPOINT"),
            (301, Some("x\nlevel=error"), "", "set S3_REGION and S3_ENDPOINT"),
            (400, None, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>", "S3_REGION=eu-west-1"),
            (403, None, "<Code>RequestTimeTooSkewed</Code>", "clock"),
            (403, None, "<Code>SignatureDoesNotMatch</Code>", "S3_SECRET_KEY"),
            (403, None, "<Code>InvalidAccessKeyId</Code>", "S3_ACCESS_KEY"),
            (403, None, "<Code>AccessDenied</Code>", "s3:ListBucket is not granted"),
            (409, None, "<Code>BucketAlreadyExists</Code>", "choose another S3_BUCKET"),
            (403, None, "<Code>SecondLevelDomainForbidden</Code>", "S3_ADDRESSING=virtual"),
            (400, None, "The plain HTTP request was sent to HTTPS port", "S3_SSL=true"),
            (400, None, "<Code>KMS.DisabledException</Code><Message>it is off</Message>", "S3_SSE_KMS_KEY_ID"),
            (418, None, "<Code>Teapot</Code><Message>short\nand stout</Message>", "short and stout"),
        ] {
            let said = advice(&list, status, region, body);
            assert!(said.contains(expected) && !said.contains('\n'), "{status} {body}: {said}");
        }
    }

    #[test]
    fn a_denial_names_the_right_that_is_missing() {
        let request = |method, key: &str, query: &[&'static str]| {
            query.iter().fold(Request::new(method, key), |request, name| request.query(name, ""))
        };
        for (request, right) in [
            (request(Method::HEAD, "", &[]), "s3:ListBucket "),
            (request(Method::PUT, "", &[]), "s3:CreateBucket "),
            (request(Method::GET, "", &["versions"]), "s3:ListBucketVersions "),
            (request(Method::GET, "", &["uploads"]), "s3:ListBucketMultipartUploads "),
            (request(Method::GET, "a", &[]), "s3:GetObject "),
            (request(Method::HEAD, "a", &["versionId"]), "s3:GetObjectVersion "),
            (request(Method::POST, "a", &["uploads"]), "s3:PutObject "),
            (request(Method::PUT, "a", &["partNumber", "uploadId"]), "s3:PutObject "),
            (request(Method::DELETE, "a", &[]), "s3:DeleteObject "),
            (request(Method::DELETE, "a", &["versionId"]), "s3:DeleteObjectVersion "),
            (request(Method::DELETE, "a", &["uploadId"]), "s3:AbortMultipartUpload "),
        ] {
            let said = advice(&request, 403, None, "<Code>AccessDenied</Code>");
            assert!(said.starts_with(right), "{said}");
            assert_eq!(said.contains("S3_SSE"), right == "s3:PutObject ", "{said}");
        }
    }
}
