//! s3s-fs, made to keep the writes that it acknowledges and to list all uploads that it has.
//!
//! s3s-fs keeps an object as a file, its metadata and its ETag in files beside the buckets, and each file is written
//! aside and renamed. This module adds what the rest of Coldstream counts on: an acknowledged write is on the disk, GET
//! honours If-Match, unfinished uploads are listed, a bucket has to exist, and a deleted object leaves no metadata.
//!
//! If the process dies in the middle of a PUT, the object may be there without its new metadata, as the PUT was not
//! acknowledged; in the middle of a multipart upload, its parts are left, and the next start removes them: the uploader
//! is gone too.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BytesMut;
use futures::stream::{self, TryStreamExt};
use s3s::dto;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::{Durability, Error, uploads};

/// The most bytes of a file name on the file systems in use.
const FILE_NAME_BYTES_MAX: usize = 255;
/// The bytes of an object that are sent at once.
const PIECE_BYTES: usize = 256 * 1024;

/// The objects under one folder.
#[derive(Debug)]
pub(super) struct Objects {
    files: FileSystem,
    folder: PathBuf,
    durability: Durability,
}

impl Objects {
    pub(super) fn open(folder: &Path, durability: Durability) -> Result<Self, Error> {
        uploads::forget(folder).map_err(Error::io("clear unfinished uploads in", folder))?;
        let files = FileSystem::new(folder)
            .map_err(|error| Error::Failed { program: "s3s-fs", output: format!("{error:?}") })?;
        Ok(Self { files, folder: folder.to_owned(), durability })
    }

    /// Refuses a missing bucket, for which s3s-fs would make a folder, and a key whose encoded name is too long for a
    /// file, on which s3s-fs would fail halfway.
    fn check(&self, bucket: &str, key: &str) -> S3Result<()> {
        if !self.folder.join(bucket).is_dir() {
            return Err(s3_error!(NoSuchBucket));
        }
        let longest = sidecar(bucket, key, ".upload-00000000-0000-0000-0000-000000000000.metadata.json");
        if longest.len() > FILE_NAME_BYTES_MAX {
            return Err(s3_error!(
                KeyTooLongError,
                "bucket and key together make a file name of {} bytes",
                longest.len()
            ));
        }
        Ok(())
    }

    /// Returns once the object, the files about it, and the names of all of them, whether they are there or gone, would
    /// survive the loss of power.
    async fn settle(&self, bucket: &str, key: &str) -> S3Result<()> {
        if self.durability == Durability::None {
            return Ok(());
        }
        let object = self.folder.join(bucket).join(key);
        let sidecars = SIDECARS.map(|suffix| self.folder.join(sidecar(bucket, key, suffix)));
        let folders = object.ancestors().skip(1).take_while(|path| path.starts_with(&self.folder)).map(Path::to_owned);
        let paths: Vec<PathBuf> = sidecars.into_iter().chain([object.clone()]).chain(folders).collect();
        let settled = tokio::task::spawn_blocking(move || paths.iter().try_for_each(|path| sync(path))).await;
        settled.map_err(io::Error::other).flatten().map_err(|error| s3_error!(error, InternalError))
    }

    /// Removes the files that s3s-fs leaves of a deleted object: its metadata holds names.
    async fn forget(&self, bucket: &str, key: &str) -> S3Result<()> {
        for suffix in SIDECARS {
            let removed = tokio::fs::remove_file(self.folder.join(sidecar(bucket, key, suffix))).await;
            removed.or_else(if_missing).map_err(|error| s3_error!(error, InternalError))?;
        }
        self.settle(bucket, key).await
    }
}

/// The files that s3s-fs keeps about an object, by the end of their names.
const SIDECARS: [&str; 2] = [".metadata.json", ".internal.json"];

/// Returns the name that s3s-fs gives a file about an object.
fn sidecar(bucket: &str, key: &str, suffix: &str) -> String {
    format!(".bucket-{}.object-{}{suffix}", URL_SAFE_NO_PAD.encode(bucket), URL_SAFE_NO_PAD.encode(key))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|file| file.sync_all()).or_else(if_missing)
}

fn if_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Joins the pieces of an object, since s3s-fs gives pieces of 4 KiB, each of which would be sent, and wake its reader,
/// by itself.
fn in_large_pieces(mut output: dto::GetObjectOutput) -> dto::GetObjectOutput {
    let length = output.content_length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    output.body = output.body.map(|body| {
        let pieces = stream::try_unfold((body, length), async |(mut body, rest)| {
            let mut piece = BytesMut::new();
            while piece.len() < rest.min(PIECE_BYTES)
                && let Some(small) = body.try_next().await.map_err(io::Error::other)?
            {
                piece.extend_from_slice(&small);
            }
            let rest = rest.saturating_sub(piece.len());
            Ok::<_, io::Error>((!piece.is_empty()).then(|| (piece.freeze(), (body, rest))))
        });
        dto::StreamingBlob::wrap(pieces)
    });
    output
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let condition = request.input.if_match.clone();
        let response = self.files.get_object(request).await?;
        match (condition, &response.output.e_tag) {
            (Some(dto::ETagCondition::ETag(expected)), Some(etag)) if !expected.strong_cmp(etag) => {
                Err(s3_error!(PreconditionFailed))
            }
            _ => Ok(response.map_output(in_large_pieces)),
        }
    }

    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        self.check(&bucket, &key)?;
        let response = self.files.put_object(request).await?;
        self.settle(&bucket, &key).await?;
        Ok(response)
    }

    async fn copy_object(
        &self,
        request: S3Request<dto::CopyObjectInput>,
    ) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        self.check(&bucket, &key)?;
        let response = self.files.copy_object(request).await?;
        self.settle(&bucket, &key).await?;
        Ok(response)
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let response = self.files.delete_object(request).await?;
        self.forget(&bucket, &key).await?;
        Ok(response)
    }

    async fn delete_objects(
        &self,
        request: S3Request<dto::DeleteObjectsInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        let bucket = request.input.bucket.clone();
        let response = self.files.delete_objects(request).await?;
        for key in response.output.deleted.iter().flatten().filter_map(|deleted| deleted.key.as_ref()) {
            self.forget(&bucket, key).await?;
        }
        Ok(response)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        self.check(&request.input.bucket, &request.input.key)?;
        self.files.create_multipart_upload(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        // s3s-fs has done everything when this returns; only the answer is left to be sent.
        let response = self.files.complete_multipart_upload(request).await?;
        self.settle(&bucket, &key).await?;
        Ok(response)
    }

    /// Lists all uploads on one page: they are only as many as are under way.
    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        let dto::ListMultipartUploadsInput { bucket, prefix, .. } = request.input;
        let uploads = uploads::list(&self.folder, &bucket, prefix.as_deref().unwrap_or_default()).await;
        let uploads = uploads.map_err(|error| s3_error!(error, InternalError))?;
        let (bucket, uploads) = (Some(bucket), Some(uploads));
        let output = dto::ListMultipartUploadsOutput {
            bucket,
            prefix,
            uploads,
            is_truncated: Some(false),
            max_uploads: Some(1000),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    async fn create_bucket(
        &self,
        request: S3Request<dto::CreateBucketInput>,
    ) -> S3Result<S3Response<dto::CreateBucketOutput>> {
        self.files.create_bucket(request).await
    }

    async fn delete_bucket(
        &self,
        request: S3Request<dto::DeleteBucketInput>,
    ) -> S3Result<S3Response<dto::DeleteBucketOutput>> {
        self.files.delete_bucket(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        self.files.get_bucket_location(request).await
    }

    async fn list_buckets(
        &self,
        request: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        self.files.list_buckets(request).await
    }

    async fn list_objects(
        &self,
        request: S3Request<dto::ListObjectsInput>,
    ) -> S3Result<S3Response<dto::ListObjectsOutput>> {
        self.files.list_objects(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<dto::UploadPartInput>,
    ) -> S3Result<S3Response<dto::UploadPartOutput>> {
        self.files.upload_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<dto::UploadPartCopyInput>,
    ) -> S3Result<S3Response<dto::UploadPartCopyOutput>> {
        self.files.upload_part_copy(request).await
    }

    async fn list_parts(&self, request: S3Request<dto::ListPartsInput>) -> S3Result<S3Response<dto::ListPartsOutput>> {
        self.files.list_parts(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        self.files.abort_multipart_upload(request).await
    }
}
