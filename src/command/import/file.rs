//! The bytes of a file, which may be compressed: its first bytes tell.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const BUFFER_BYTES: usize = 64 * 1024;
/// The number of first bytes that tell the format of a file.
const MAGIC_BYTES: u64 = 6;

/// Opens a file; `-` is the standard input.
pub fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    let raw: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(file)?),
    };
    let mut input = Input { ahead: Cursor::default(), rest: BufReader::with_capacity(BUFFER_BYTES, raw) };
    let magic = input.peek()?.to_vec();
    Ok(match magic.as_slice() {
        magic if is_gzip(magic) => buffered(Whole(Gzip::new(input))),
        // A skippable frame comes first where a file was compressed in parallel.
        magic if is_zstd(magic) => buffered(Whole(Zstd::new(input))),
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

fn is_gzip(magic: &[u8]) -> bool {
    magic.starts_with(&[0x1f, 0x8b])
}

/// Returns whether a frame begins, which may be one to skip.
fn is_zstd(magic: &[u8]) -> bool {
    matches!(magic, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The bytes of a file as they are, some of which may have been looked at before they are read.
struct Input<R> {
    ahead: Cursor<Vec<u8>>,
    rest: R,
}

impl<R: BufRead> Input<R> {
    /// Returns the next bytes without reading them: fewer than [`MAGIC_BYTES`] at the end of the file.
    fn peek(&mut self) -> io::Result<&[u8]> {
        let mut ahead = Vec::new();
        self.by_ref().take(MAGIC_BYTES).read_to_end(&mut ahead)?;
        self.ahead = Cursor::new(ahead);
        Ok(self.ahead.get_ref())
    }

    /// Returns whether another member or frame follows, for which `is_magic` knows the first bytes. Zeros up to the
    /// end of the file are padding, as tapes leave it.
    fn goes_on(&mut self, is_magic: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
        if is_magic(self.peek()?) {
            return Ok(true);
        }
        loop {
            let padding = self.fill_buf()?;
            if padding.is_empty() {
                return Ok(false);
            }
            if padding.iter().any(|byte| *byte != 0) {
                let why = "there is something behind the end of the compressed file";
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
            let length = padding.len();
            self.consume(length);
        }
    }
}

impl<R: BufRead> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ahead.fill_buf()?.is_empty() { self.rest.fill_buf() } else { self.ahead.fill_buf() }
    }

    fn consume(&mut self, length: usize) {
        if self.ahead.fill_buf().is_ok_and(<[u8]>::is_empty) {
            self.rest.consume(length);
        } else {
            self.ahead.consume(length);
        }
    }
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

/// A reader of gzip members behind each other.
struct Gzip<R> {
    /// The member that is being read; `None` behind the last one.
    member: Option<GzDecoder<Input<R>>>,
}

impl<R: BufRead> Gzip<R> {
    fn new(input: Input<R>) -> Gzip<R> {
        Gzip { member: Some(GzDecoder::new(input)) }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let length = member.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            let goes_on = member.get_mut().goes_on(is_gzip)?;
            self.member = self.member.take().filter(|_| goes_on).map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// A reader of zstd frames behind each other, which passes over skippable frames between them.
struct Zstd<R> {
    input: Input<R>,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(input: Input<R>) -> Zstd<R> {
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
            if !self.input.goes_on(is_zstd)? {
                return Ok(0);
            }
            self.begin_frame()?;
        }
    }
}
