//! The compressors of squashfs 4.0: each is a function that decodes a block into a buffer.
//!
//! Invariants: output never exceeds the given buffer. No decoder allocates in proportion to sizes
//! stated in the block (xz has a memory limit, the others do not need one). The state of a decoder
//! is kept per thread, because creating one takes as long as decoding a small block.
//!
//! Ids are those of `fs/squashfs/squashfs_fs.h`. A block is a zlib stream for gzip, a raw LZO1X or
//! LZ4 block, an `.xz` stream or a zstd frame.

use std::cell::RefCell;
use std::fmt;

/// Maximum memory of an xz decoder in bytes. `mksquashfs` uses dictionaries up to the block size (1
/// MiB), other writers 8 MiB (preset 6).
const XZ_MEMORY_LIMIT: u64 = 16 << 20;

/// The compression of an image's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// zlib streams.
    Gzip,
    /// LZO1X.
    Lzo,
    /// xz streams.
    Xz,
    /// LZ4 blocks.
    Lz4,
    /// zstd frames.
    Zstd,
}

impl fmt::Display for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compressor::Gzip => "gzip",
            Compressor::Lzo => "lzo",
            Compressor::Xz => "xz",
            Compressor::Lz4 => "lz4",
            Compressor::Zstd => "zstd",
        })
    }
}

/// The reason why a block cannot be decoded.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It decodes to more bytes than expected.
    TooLong,
    /// It is invalid; the message of the decoder.
    Invalid(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooLong => f.write_str("it decodes to more bytes than expected"),
            DecodeError::Invalid(why) => f.write_str(why),
        }
    }
}

thread_local! {
    static GZIP: RefCell<libdeflater::Decompressor> =
        RefCell::new(libdeflater::Decompressor::new());
    static ZSTD: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Compressor {
    /// Returns the compressor with the number `id`, or a description of an unsupported one.
    pub(super) fn from_id(id: u16) -> Result<Self, String> {
        match id {
            1 => Ok(Compressor::Gzip),
            2 => Err("the lzma compressor (squashfs-lzma, before xz)".into()),
            3 => Ok(Compressor::Lzo),
            4 => Ok(Compressor::Xz),
            5 => Ok(Compressor::Lz4),
            6 => Ok(Compressor::Zstd),
            id => Err(format!("compressor number {id}")),
        }
    }

    /// Decodes the block `input` into `output`. Returns the number of bytes written.
    pub(super) fn decode(self, input: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
        match self {
            Compressor::Gzip => gzip(input, output),
            Compressor::Lzo => lzo(input, output),
            Compressor::Xz => xz(input, output),
            Compressor::Lz4 => lz4(input, output),
            Compressor::Zstd => zstd(input, output),
        }
    }
}

fn invalid(what: impl fmt::Display) -> DecodeError {
    DecodeError::Invalid(what.to_string())
}

fn gzip(input: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
    let mut decode = |decoder: &mut libdeflater::Decompressor| {
        decoder.zlib_decompress(input, output).map_err(|error| match error {
            libdeflater::DecompressionError::InsufficientSpace => DecodeError::TooLong,
            libdeflater::DecompressionError::BadData => invalid("damaged zlib stream"),
        })
    };
    GZIP.try_with(|decoder| decode(&mut decoder.borrow_mut())).map_err(invalid)?
}

fn zstd(input: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
    let mut decode = |slot: &mut Option<zstd::bulk::Decompressor<'static>>| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => slot.insert(zstd::bulk::Decompressor::new().map_err(invalid)?),
        };
        decoder.decompress_to_buffer(input, output).map_err(invalid)
    };
    ZSTD.try_with(|slot| decode(&mut slot.borrow_mut())).map_err(invalid)?
}

fn xz(input: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
    use liblzma::stream::{Action, Status, Stream};
    let mut stream = Stream::new_stream_decoder(XZ_MEMORY_LIMIT, 0).map_err(invalid)?;
    // Even with the output full, the decoder must reach the end of the stream: continue as long as
    // it consumes input or produces output.
    loop {
        let (read, written) = (stream.total_in(), stream.total_out());
        let rest = input.get(read as usize..).unwrap_or_default();
        let room = output.get_mut(written as usize..).unwrap_or_default();
        let room_left = !room.is_empty();
        match stream.process(rest, room, Action::Finish).map_err(invalid)? {
            Status::StreamEnd => return Ok(stream.total_out() as usize),
            _ if (stream.total_in(), stream.total_out()) != (read, written) => {}
            _ if room_left => return Err(invalid("truncated xz stream")),
            _ => return Err(DecodeError::TooLong),
        }
    }
}

fn lz4(input: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
    lz4_flex::block::decompress_into(input, output).map_err(|error| match error {
        lz4_flex::block::DecompressError::OutputTooSmall { .. } => DecodeError::TooLong,
        error => invalid(error),
    })
}

fn lzo(input: &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
    lzokay::decompress::decompress(input, output).map_err(|error| match error {
        lzokay::Error::OutputOverrun => DecodeError::TooLong,
        error => DecodeError::Invalid(format!("damaged lzo block ({error:?})")),
    })
}
