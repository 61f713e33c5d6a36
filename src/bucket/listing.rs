//! Lists a bucket, a page at a time: strangers may have put millions of objects beside ours, of any name.

use http::Method;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::bucket::documents::parse_xml;
use crate::bucket::keys::{archive_in_key, is_marker};
use crate::bucket::objects::{parse_instant, quoted};
use crate::bucket::probe::is_probe;
use crate::bucket::request::Request;
use crate::bucket::{Bucket, Error};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub etag: String,
    pub bytes: i64,
    /// The time of the last change; `None` if the server does not say.
    pub modified_at: Option<OffsetDateTime>,
}

/// The objects in a bucket, apart from the marker and probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The objects whose keys are those of archives, in the order of the keys; any of them may be somebody else's all
    /// the same.
    pub archives: Vec<ListedArchive>,
    pub strangers: Strangers,
}

/// The objects that are no archives of ours, as their number and the key of the first: there may be millions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strangers {
    count: usize,
    first: Option<String>,
}

impl Strangers {
    pub fn push(&mut self, key: String) {
        self.count += 1;
        self.first.get_or_insert(key);
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedArchive {
    pub key: String,
    /// The folder in which the archives of its log are.
    pub folder: String,
    pub archive_id: Uuid,
    pub etag: String,
    pub bytes: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListPage {
    #[serde(default)]
    contents: Vec<ListEntry>,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListEntry {
    key: String,
    #[serde(rename = "ETag", default)]
    etag: String,
    size: i64,
    #[serde(default)]
    last_modified: String,
}

impl Bucket {
    /// Lists the objects below a prefix, in the order of their keys: all of them, or until there are `objects_max`.
    pub async fn list(&self, prefix: &str, objects_max: Option<usize>) -> Result<Vec<ListedObject>, Error> {
        let (mut found, mut from) = (Vec::new(), None);
        loop {
            let (objects, next) = self.list_page(prefix, from, objects_max).await?;
            found.extend(objects);
            from = next;
            if from.is_none() || objects_max.is_some_and(|objects_max| found.len() >= objects_max) {
                return Ok(found);
            }
        }
    }

    /// Lists the whole bucket, 1,000 objects a request.
    pub async fn list_archives(&self) -> Result<Listed, Error> {
        let (mut listed, mut from) = (Listed::default(), None);
        loop {
            let (objects, next) = self.list_page("", from, None).await?;
            objects.into_iter().for_each(|object| listed.add(object));
            from = next;
            if from.is_none() {
                return Ok(listed);
            }
        }
    }

    /// A page of objects, as long as the server makes it, and where the next page begins.
    pub async fn list_page(
        &self,
        prefix: &str,
        from: Option<String>,
        objects_max: Option<usize>,
    ) -> Result<(Vec<ListedObject>, Option<String>), Error> {
        let request = Request::new(Method::GET, "")
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("prefix", prefix)
            .query_if("continuation-token", from)
            .query_if("max-keys", objects_max.map(|objects_max| objects_max.to_string()));
        let (_, body) = self.client.repeat_whole(&request).await?;
        let page: ListPage = parse_xml("ListBucketResult", &self.name, &body)?;
        let is_encoded = page.encoding_type.is_some();
        let objects = page.contents.into_iter().map(|ListEntry { key, etag, size, last_modified }| ListedObject {
            key: decoded(key, is_encoded),
            etag: quoted(&etag),
            bytes: size,
            modified_at: parse_instant(&last_modified),
        });
        Ok((objects.collect(), page.next_continuation_token))
    }
}

impl Listed {
    fn add(&mut self, ListedObject { key, etag, bytes, .. }: ListedObject) {
        match archive_in_key(&key) {
            Some(archive_id) => {
                let folder = key.rsplit_once('/').map_or_else(String::new, |(folder, _)| folder.to_owned());
                self.archives.push(ListedArchive { key, folder, archive_id, etag, bytes });
            }
            None if is_marker(&key) || is_probe(&key) => {}
            None => self.strangers.push(key),
        }
    }
}

/// Decodes a listed key. A key may hold characters that XML cannot, so the server is asked to encode it as in a query;
/// not every server does.
pub(super) fn decoded(key: String, is_encoded: bool) -> String {
    match is_encoded {
        true => percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned(),
        false => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_xml_cannot_hold_is_decoded() {
        for (encoded, key) in [
            ("a%01b%0D%0A.txt", "a\u{1}b\r\n.txt"),
            ("two+words%2B%25", "two words+%"),
            ("%E2%82%AC", "€"),
            ("acme/orders/x.json.gz", "acme/orders/x.json.gz"),
        ] {
            assert_eq!(decoded(encoded.to_owned(), true), key);
        }
        assert_eq!(decoded("two+words%01".to_owned(), false), "two+words%01", "a server that does not encode");
    }
}
