//! The reach of a refusal: everything that is asked of the bucket, or one object.
//!
//! Most error codes tell which. The marker tells it of the others: a server that gives the marker, or says that there
//! is none, takes these credentials at this time, so the refusal is the object's own trouble.

use http::Method;

/// The requests that a refusal extends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every request is refused for now, because of the credentials, the clock, the account or the bucket.
    Bucket,
    /// The object is refused, and will be refused when it is asked for again.
    Object,
    /// Either the bucket or the object: the answer does not tell.
    Unclear,
    /// The server does not take such a request, whatever object it is about.
    Request,
}

/// The error codes of S3, and of servers that do as S3 does, with their reach.
const CODES: [(&str, Reach); 30] = [
    ("AccountProblem", Reach::Bucket),
    ("AllAccessDisabled", Reach::Bucket),
    ("AuthorizationHeaderMalformed", Reach::Bucket),
    ("AuthorizationQueryParametersError", Reach::Bucket),
    ("ExpiredToken", Reach::Bucket),
    ("InvalidAccessKeyId", Reach::Bucket),
    ("InvalidPayer", Reach::Bucket),
    ("InvalidSecurity", Reach::Bucket),
    ("InvalidToken", Reach::Bucket),
    ("MissingAuthenticationToken", Reach::Bucket),
    ("MissingSecurityHeader", Reach::Bucket),
    ("NoSuchBucket", Reach::Bucket),
    ("NotSignedUp", Reach::Bucket),
    ("PermanentRedirect", Reach::Bucket),
    ("RequestExpired", Reach::Bucket),
    ("RequestTimeTooSkewed", Reach::Bucket),
    ("SignatureDoesNotMatch", Reach::Bucket),
    ("TokenRefreshRequired", Reach::Bucket),
    ("UserSuspended", Reach::Bucket),
    ("InvalidObjectState", Reach::Object),
    // Each object is encrypted with a key of its own, or with that of the time when it was written.
    ("KMS.AccessDeniedException", Reach::Object),
    ("KMS.DisabledException", Reach::Object),
    ("KMS.InvalidKeyUsageException", Reach::Object),
    ("KMS.InvalidStateException", Reach::Object),
    ("KMS.KMSInvalidStateException", Reach::Object),
    ("KMS.KeyUnavailableException", Reach::Object),
    ("KMS.NotFoundException", Reach::Object),
    ("ObjectLocked", Reach::Object),
    ("AccessDenied", Reach::Unclear),
    ("MethodNotAllowed", Reach::Unclear),
];

/// The reach of a refusal of a request about one object. A refused write is never about the object: nothing of it is
/// lost.
pub fn reach(method: &Method, status: u16, code: &str) -> Reach {
    if ![Method::GET, Method::HEAD, Method::DELETE].contains(method) {
        return Reach::Request;
    }
    if let Some((_, reach)) = CODES.iter().find(|(known, _)| *known == code) {
        return *reach;
    }
    match status {
        // An answer to HEAD has no document that could bear a code, and some servers have codes of their own.
        400 | 401 | 403 | 405 | 410 | 451 => Reach::Unclear,
        _ => Reach::Request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_table_once() {
        for (index, (code, _)) in CODES.iter().enumerate() {
            assert!(CODES[index + 1..].iter().all(|(other, _)| other != code), "{code}");
        }
    }

    #[test]
    fn a_code_says_how_far_a_refusal_reaches() {
        for (code, expected) in CODES {
            for (method, status) in [(Method::GET, 403), (Method::HEAD, 400), (Method::DELETE, 403)] {
                assert_eq!(reach(&method, status, code), expected, "{method} {status} {code}");
            }
            for method in [Method::PUT, Method::POST] {
                assert_eq!(reach(&method, 403, code), Reach::Request, "{method} {code}");
            }
        }
    }

    #[test]
    fn a_status_without_a_code_that_is_known_says_less() {
        for (method, status, expected) in [
            (Method::HEAD, 403, Reach::Unclear),
            (Method::HEAD, 400, Reach::Unclear),
            (Method::GET, 401, Reach::Unclear),
            (Method::GET, 410, Reach::Unclear),
            (Method::DELETE, 400, Reach::Unclear),
            (Method::GET, 400, Reach::Unclear),
            (Method::GET, 416, Reach::Request),
            (Method::GET, 501, Reach::Request),
            (Method::DELETE, 409, Reach::Request),
        ] {
            for code in ["", "SomethingNew"] {
                assert_eq!(reach(&method, status, code), expected, "{method} {status} {code}");
            }
        }
    }
}
