//! Checks that reading any bytes as a tar archive results in the end of the archive or in an error.
//! Paths, attributes and maps of members contain no NUL; the data of a member is in order and
//! within the size of the file; all data together is at most as long as the archive. No panic, no
//! hang, and no more memory than allowed.
//!
//! Blocks that look like headers get a valid checksum first, because mutations would not find one.
#![no_main]

use fs_model::FileType;
use fs_model::acl::{AccountIds, TextAcl};
use fs_model::tar::{BLOCK_SIZE, MemberKind, Reader};

libfuzzer_sys::fuzz_target!(|bytes: Vec<u8>| {
    let mut bytes = bytes;
    for block in bytes.chunks_exact_mut(BLOCK_SIZE) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
    let mut reader = Reader::new(&bytes[..]);
    let mut buffer = vec![0; 4096];
    let mut total = 0;
    let mut last = None;
    while let Ok(Some(member)) = reader.next_member() {
        assert!(last < Some(member.offset), "members are not in order");
        last = Some(member.offset);
        assert!(!member.path.contains(&0) && !member.target.contains(&0));
        assert!(member.mode <= 0o7777 && member.mtime.nanos < 1_000_000_000);
        assert!(member.xattrs.iter().all(|(name, _)| !name.contains(&0)));
        for list in member.access_list.iter().chain(&member.default_list) {
            if let Some(list) = TextAcl::parse(list) {
                list.resolve(&AccountIds::default(), |_| ());
            }
        }
        let is_file = member.kind == MemberKind::Object(FileType::Regular);
        assert!(is_file || member.size == 0);
        let mut end = 0;
        // Skip the data of every other file.
        while member.offset / 512 % 2 == 0
            && let Ok(Some((offset, length))) = reader.read_data(&mut buffer)
        {
            assert!(is_file && length > 0 && end <= offset);
            end = offset + length as u64;
            assert!(end <= member.size);
            total += length;
        }
    }
    assert!(total <= bytes.len());
    assert!(reader.end().is_none() || reader.next_member().is_ok_and(|member| member.is_none()));
});
