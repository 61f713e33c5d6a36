//! The bytes of a file, which may be compressed: its first bytes tell.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const BUFFER_BYTES: usize = 64 * 1024;
/// The number of first bytes that tell the format of a file.
const MAGIC_BYTES: u64 = 6;

/// Opens a file; `-` is the standard input.
pub fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut raw: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file)?),
    };
    let mut magic = Vec::new();
    raw.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
    let input = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic.clone()).chain(raw));
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => buffered(Whole(MultiGzDecoder::new(input))),
        // A skippable frame comes first where a file was compressed in parallel.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => buffered(Whole(Zstd::new(input))),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..] => return Err(unknown("UTF-16 or UTF-32 text")),
        [b'B', b'Z', b'h', ..] => return Err(unknown("compressed with bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unknown("compressed with xz")),
        [b'P', b'K', 3, 4, ..] => return Err(unknown("a zip archive")),
        _ => Box::new(input),
    })
}

fn buffered(decoder: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
}

fn unknown(what: &str) -> io::Error {
    let wanted = "UTF-8 text is taken, as it is or compressed with gzip or zstd";
    io::Error::new(ErrorKind::InvalidData, format!("it is {what}: {wanted}"))
}

/// A reader that says in plain words that a compressed file is cut off.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the compressed file is cut off"),
            _ => error,
        })
    }
}

/// A reader of frames behind each other, which passes over skippable frames between them.
struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: R) -> Zstd<R> {
        Zstd { input, decoder: FrameDecoder::new(), is_in_frame: false }
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        match self.decoder.reset(&mut self.input) {
            Ok(()) => self.is_in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut self.input.by_ref().take(length.into()), &mut io::sink())?;
                if skipped < u64::from(length) {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(self.failed(error)),
        }
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let (said, made) = (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        if said.is_some() && said != made {
            return Err(io::Error::new(ErrorKind::InvalidData, "the compressed file is damaged: its checksum differs"));
        }
        self.is_in_frame = false;
        Ok(())
    }

    /// Returns the cause of a failed frame: the end of the input or an error of reading it, if there is one, and else
    /// the decoder's own error.
    fn failed(&mut self, error: FrameDecoderError) -> io::Error {
        match self.input.fill_buf() {
            Ok([]) => ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::other(error),
            Err(error) => error,
        }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_in_frame {
                while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                    let enough = BlockDecodingStrategy::UptoBytes(buffer.len());
                    let decoded = self.decoder.decode_blocks(&mut self.input, enough);
                    decoded.map_err(|error| self.failed(error))?;
                }
                let length = self.decoder.read(buffer)?;
                if length > 0 {
                    return Ok(length);
                }
                self.end_frame()?;
            }
            if self.input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.begin_frame()?;
        }
    }
}
