//! The compressors of squashfs 4.0, each as one function from a block to a buffer.
//!
//! Invariants: the output never grows beyond the buffer it is given; no decoder allocates in
//! proportion to what the block claims (xz is held to a memory limit, the others need none); the
//! decoder's own state is kept per thread, because setting one up costs as much as a small block.
//!
//! The ids are those of `fs/squashfs/squashfs_fs.h`. A block is a zlib stream for gzip, a raw
//! LZO1X or LZ4 block, an `.xz` stream, a zstd frame.

use std::cell::RefCell;
use std::fmt;

/// The most that an xz decoder may allocate. A dictionary is no larger than a block (1 MiB) by
/// `mksquashfs`, 8 MiB by preset 6 of other writers.
const XZ_MEMORY_LIMIT: u64 = 16 << 20;

/// How the blocks of an image are compressed.
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

/// Why a block did not decode.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It holds more than its place can.
    TooLong,
    /// It is not a block of this compressor; what the decoder says.
    Invalid(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooLong => f.write_str("it decodes to more than there should be"),
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
    /// The compressor of an id, or what to say of one that is not read.
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

    /// Decodes the block `input` into `output`, and says how much of it was filled.
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
    // With the output full, the decoder still has to see the end of the stream: so go on for as
    // long as it gets ahead in either.
    loop {
        let (read, written) = (stream.total_in(), stream.total_out());
        let rest = input.get(read as usize..).unwrap_or_default();
        let room = output.get_mut(written as usize..).unwrap_or_default();
        let room_left = !room.is_empty();
        match stream.process(rest, room, Action::Finish).map_err(invalid)? {
            Status::StreamEnd => return Ok(stream.total_out() as usize),
            _ if (stream.total_in(), stream.total_out()) != (read, written) => {}
            _ if room_left => return Err(invalid("cut off xz stream")),
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
