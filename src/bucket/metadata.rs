//! The user metadata of objects.

use std::str::FromStr;

use http::header::HeaderMap;
use uuid::Uuid;

use crate::bucket::keys;
use crate::bucket::request::Request;
use crate::event::Log;

/// The longest tenant and topic together that are put into the metadata, of which S3 takes 2 KB. Longer ones are left
/// out; every event carries them.
const NAME_BYTES_MAX: usize = 700;

pub(super) const FORMAT_VERSION: u32 = 1;
const FORMAT_HEADER: &str = "x-amz-meta-format";
const ARCHIVE_ID_HEADER: &str = "x-amz-meta-archive-id";
const GENERATION_HEADER: &str = "x-amz-meta-generation";
const WRITE_ID_HEADER: &str = "x-amz-meta-write-id";
const FIRST_POSITION_HEADER: &str = "x-amz-meta-first-position";
const LAST_POSITION_HEADER: &str = "x-amz-meta-last-position";
const COUNT_HEADER: &str = "x-amz-meta-count";

/// The user metadata of an archive's object, all known before the object's first byte is.
#[derive(Debug, Clone)]
pub struct ObjectMetadata {
    pub generation: i64,
    pub write_id: Uuid,
    pub first_position: i64,
    pub last_position: i64,
    pub count: i64,
}

impl ObjectMetadata {
    pub(super) fn said(&self, request: Request, log: &Log, archive_id: Uuid) -> Request {
        let ObjectMetadata { generation, write_id, first_position, last_position, count } = self;
        let request = request
            .header(FORMAT_HEADER, FORMAT_VERSION.to_string())
            .header(ARCHIVE_ID_HEADER, archive_id.to_string())
            .header(GENERATION_HEADER, generation.to_string())
            .header(WRITE_ID_HEADER, write_id.to_string())
            .header(FIRST_POSITION_HEADER, first_position.to_string())
            .header(LAST_POSITION_HEADER, last_position.to_string())
            .header(COUNT_HEADER, count.to_string());
        let (tenant, topic) = (keys::encode(log.tenant()), keys::encode(log.topic()));
        if tenant.len() + topic.len() > NAME_BYTES_MAX {
            return request;
        }
        request.header("x-amz-meta-tenant", tenant).header("x-amz-meta-topic", topic)
    }
}

/// The user metadata of any object, as far as they can be parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    pub format: Option<u32>,
    pub archive_id: Option<Uuid>,
    pub generation: Option<i64>,
    pub write_id: Option<Uuid>,
    pub first_position: Option<i64>,
    pub last_position: Option<i64>,
    pub count: Option<i64>,
}

impl Said {
    pub(super) fn from_headers(headers: &HeaderMap) -> Said {
        Said {
            format: parsed(headers, FORMAT_HEADER),
            archive_id: parsed(headers, ARCHIVE_ID_HEADER),
            generation: parsed(headers, GENERATION_HEADER),
            write_id: parsed(headers, WRITE_ID_HEADER),
            first_position: parsed(headers, FIRST_POSITION_HEADER),
            last_position: parsed(headers, LAST_POSITION_HEADER),
            count: parsed(headers, COUNT_HEADER),
        }
    }

    /// The metadata of an archive; an error if one of them is missing.
    pub fn metadata(&self) -> Result<ObjectMetadata, String> {
        let Said { format: _, archive_id: _, generation, write_id, first_position, last_position, count } = *self;
        let whole = || {
            let (generation, write_id, count) = (generation?, write_id?, count?);
            let (first_position, last_position) = (first_position?, last_position?);
            Some(ObjectMetadata { generation, write_id, first_position, last_position, count })
        };
        whole().ok_or_else(|| "its metadata are not those of an archive".to_owned())
    }
}

fn parsed<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
