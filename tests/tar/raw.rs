//! Archives put together by hand.

/// A header of ustar, whose fields can be overwritten.
#[derive(Clone, Debug)]
pub(crate) struct Header([u8; 512]);

impl Header {
    /// A member of root's, of mode 0644 or 0755, last changed in the second 1,600,000,000.
    pub(crate) fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let mode = if kind == b'5' { b"0000755\0" } else { b"0000644\0" };
        Header([0; 512])
            .put(0, name)
            .put(100, mode)
            .put(108, b"0000000\0")
            .put(116, b"0000000\0")
            .size(0)
            .put(136, b"13727410000\0")
            .put(156, [kind])
            .put(257, b"ustar\x0000")
            .put(329, b"0000000\0")
            .put(337, b"0000000\0")
    }

    pub(crate) fn from_block(block: [u8; 512]) -> Self {
        Header(block)
    }

    /// A header as before POSIX: names, mode, owner, size, time and type alone.
    pub(crate) fn v7(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Header::new(kind, name).put(257, [0; 255])
    }

    pub(crate) fn gnu(kind: u8, name: impl AsRef<[u8]>) -> Self {
        Header::new(kind, name).put(257, b"ustar  \0")
    }

    pub(crate) fn link(kind: u8, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Header::new(kind, name).put(157, target)
    }

    pub(crate) fn put(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn size(self, size: u64) -> Self {
        self.put(124, format!("{size:011o}\0"))
    }

    pub(crate) fn mode(self, mode: u16) -> Self {
        self.put(100, format!("{mode:07o}\0"))
    }

    pub(crate) fn ids(self, uid: u32, gid: u32) -> Self {
        self.put(108, format!("{uid:07o}\0")).put(116, format!("{gid:07o}\0"))
    }

    /// The header with its checksum.
    pub(crate) fn summed(self) -> [u8; 512] {
        let header = self.put(148, b"        ");
        let sum: u32 = header.0.iter().map(|&byte| u32::from(byte)).sum();
        header.put(148, format!("{sum:06o}\0 ")).0
    }

    /// The header with the checksum of signed bytes.
    pub(crate) fn summed_signed(self) -> [u8; 512] {
        let header = self.put(148, b"        ");
        let sum: i32 = header.0.iter().map(|&byte| i32::from(byte as i8)).sum();
        header.put(148, format!("{sum:06o}\0 ")).0
    }
}

/// An archive so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

impl Archive {
    pub(crate) fn new() -> Self {
        Archive::default()
    }

    pub(crate) fn header(self, header: Header) -> Self {
        self.bytes(header.summed())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// Bytes, and zeros to the end of the block.
    pub(crate) fn data(self, bytes: impl AsRef<[u8]>) -> Self {
        let mut archive = self.bytes(bytes);
        archive.0.resize(archive.0.len().next_multiple_of(512), 0);
        archive
    }

    /// A header with the size of its data, and the data.
    pub(crate) fn member(self, header: Header, data: impl AsRef<[u8]>) -> Self {
        let size = data.as_ref().len() as u64;
        self.header(header.size(size)).data(data)
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.member(Header::new(b'0', name), content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.header(Header::new(b'5', name))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.header(Header::link(b'2', name, target))
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.header(Header::link(b'1', name, target))
    }

    /// A pax header of the next member.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.member(Header::new(b'x', "PaxHeaders/x"), pax_records(records))
    }

    pub(crate) fn global(self, records: &[(&str, &[u8])]) -> Self {
        self.member(Header::new(b'g', "pax_global_header"), pax_records(records))
    }

    /// Two blocks of zeros.
    pub(crate) fn end(self) -> Vec<u8> {
        self.bytes([0; 1024]).0
    }
}

pub(crate) fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length);
        bytes.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}
