//! The files that s3s-fs keeps of multipart uploads under way, which it cannot list itself.
//!
//! The files lie beside the buckets: `.upload-{id}.json`, `.upload_id-{id}.part-{number}`, and the metadata meant for
//! the object, whose name bears bucket and key. If the process dies in the middle of an upload, its files are left, and
//! `forget` removes them.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use s3s::dto::{MultipartUpload, StorageClass};

/// Returns the uploads to keys of this bucket that start with `prefix`, in the order of S3: by key, then by id.
pub(super) async fn list(folder: &Path, bucket: &str, prefix: &str) -> io::Result<Vec<MultipartUpload>> {
    let mut uploads = Vec::new();
    let mut entries = tokio::fs::read_dir(folder).await?;
    while let Some(entry) = entries.next_entry().await? {
        let upload = entry.file_name().to_str().and_then(upload_of);
        let Some((_, key, upload_id)) = upload.filter(|(of, key, _)| of == bucket && key.starts_with(prefix)) else {
            continue;
        };
        // An upload whose file is gone was completed or aborted since the folder was read.
        let Ok(initiated_at) = entry.metadata().await.and_then(|metadata| metadata.modified()) else { continue };
        uploads.push(MultipartUpload {
            key: Some(key),
            upload_id: Some(upload_id),
            initiated: Some(initiated_at.into()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        });
    }
    uploads.sort_by(|one, other| (&one.key, &one.upload_id).cmp(&(&other.key, &other.upload_id)));
    Ok(uploads)
}

/// Removes the parts and the records of every upload: `.upload-…`, `.upload_id-…`, and the metadata meant for their
/// objects.
pub(super) fn forget(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".upload") || upload_of(&name).is_some() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Returns bucket, key and upload id from the name of the file that holds an upload's metadata.
fn upload_of(file_name: &str) -> Option<(String, String, String)> {
    let decode = |text: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let (bucket, rest) = file_name.strip_prefix(".bucket-")?.split_once(".object-")?;
    let (key, upload_id) = rest.strip_suffix(".metadata.json")?.split_once(".upload-")?;
    Some((decode(bucket)?, decode(key)?, upload_id.to_owned()))
}
