//! Lints of archives. The behaviour stated for each unpacker was tested with that unpacker.

use super::super::{Lint, Severity};

const SEAL: &str = "seal the overlay with overcoat, which writes archives that all unpackers read";

pub(super) static NO_TRAILER: Lint = Lint {
    name: "archive/no-trailer",
    severity: Severity::Error,
    summary: "the archive has no trailer",
    why: "Without the last entry, TRAILER!!!, an unpacker cannot detect a truncated archive. GNU \
          cpio and bsdtar exit with an error, and a start-up script that checks the exit code \
          stops.",
    fix: SEAL,
};

pub(super) static JUNK: Lint = Lint {
    name: "archive/junk",
    severity: Severity::Error,
    summary: "unknown data after the archive",
    why: "The kernel stops with an error at the first unknown byte and drops the rest; cpio \
          programs ignore it.",
    fix: "remove the data, or seal the overlay again; only zeros and further archives may follow \
          an archive",
};

pub(super) static SEVERAL_MEMBERS: Lint = Lint {
    name: "archive/several-members",
    severity: Severity::Error,
    summary: "one archive is split over several compressed members",
    why: "The kernel treats the end of the first gzip member or zstd frame as the end of the \
          archive: \"junk at the end of compressed archive\". The file being written is truncated, \
          all later files are missing, and the machine continues to boot. gzip and zstd read such \
          a stream without an error. Some parallel compressors write it (bgzip, mgzip, pzstd); \
          pigz does not.",
    fix: "compress the archive as one member: gzip, pigz, zstd and overcoat do",
};

pub(super) static SEVERAL_ARCHIVES: Lint = Lint {
    name: "archive/several-archives",
    severity: Severity::Warning,
    summary: "the file contains several archives",
    why: "The kernel unpacks all of them, as in an initrd. A cpio program, or a start-up script \
          that calls one, stops at the first trailer: the later archives are missing.",
    fix: "merge them into one archive, or give them to the machine as separate overlays",
};

pub(super) static GZIP_HEADER: Lint = Lint {
    name: "archive/gzip-header",
    severity: Severity::Error,
    summary: "a gzip header that the kernel does not support",
    why: "The kernel's gunzip supports a header with a file name or without fields. It reads any \
          other field (FEXTRA, FCOMMENT, FHCRC) as compressed data and unpacks nothing. gzip, \
          busybox and libarchive accept these fields.",
    fix: "compress with gzip or pigz, or seal with overcoat; bgzip and mgzip write FEXTRA",
};

pub(super) static MISSING_PARENT: Lint = Lint {
    name: "archive/missing-parent",
    severity: Severity::Error,
    summary: "an entry whose parent directory is not in the archive",
    why: "The kernel drops the entry without a message; GNU cpio fails unless it may create \
          directories (-d), and busybox cpio stops. An unpacker that creates the directory does \
          not use the base's mode and owner.",
    fix: "archive every parent directory before its contents, as `find . | cpio -o -H newc` and \
          overcoat do",
};

pub(super) static ORDER: Lint = Lint {
    name: "archive/order",
    severity: Severity::Error,
    summary: "an entry precedes its parent directory",
    why: "The directory does not exist when the entry is unpacked: the kernel drops the entry \
          without a message, GNU cpio fails, and busybox cpio stops.",
    fix: "archive a directory before its contents; do not use `find -depth`",
};

pub(super) static DUPLICATE_NAME: Lint = Lint {
    name: "archive/duplicate-name",
    severity: Severity::Error,
    summary: "a path occurs more than once in the archive",
    why: "The result depends on the unpacker: the kernel and bsdtar keep the last entry, GNU cpio \
          and busybox the first.",
    fix: SEAL,
};

pub(super) static ABSOLUTE_NAME: Lint = Lint {
    name: "archive/absolute-name",
    severity: Severity::Error,
    summary: "an absolute entry name",
    why: "GNU cpio writes the entry relative to the root of the running system instead of the \
          target directory: on a booting machine into its initrd, on a workstation over the host's \
          own files.",
    fix: "archive from inside the directory: `cd DIR && find . | cpio -o -H newc`",
};

pub(super) static DOTDOT_NAME: Lint = Lint {
    name: "archive/dotdot-name",
    severity: Severity::Error,
    summary: "an entry name with `..`",
    why: "Unpackers write the entry outside the target directory, or reject it.",
    fix: "archive from inside the directory: `cd DIR && find . | cpio -o -H newc`",
};

pub(super) static DROPPED: Lint = Lint {
    name: "archive/dropped-entry",
    severity: Severity::Error,
    summary: "an entry that the kernel drops",
    why: "The kernel skips the entry without a message, and it is missing on the machine: a name \
          or a link target longer than PATH_MAX, a name without its terminating NUL, an unknown \
          file type, or a symbolic link without a target.",
    fix: SEAL,
};

pub(super) static CHECKSUM: Lint = Lint {
    name: "archive/checksum",
    severity: Severity::Error,
    summary: "content that does not match its checksum",
    why: "The archive has checksums (070702), and this one does not match: the content is damaged. \
          The kernel prints \"bad data checksum\" and stops: all later entries are missing.",
    fix: "copy or build the archive again",
};

pub(super) static SHARED_INODE: Lint = Lint {
    name: "archive/shared-inode",
    severity: Severity::Error,
    summary: "different files with the same inode number",
    why: "Entries with the same inode number and a link count above one are names of one file: the \
          kernel, GNU cpio and bsdtar create one file, with the content of the first or the last \
          entry. It happens when 64-bit inode numbers are truncated to the 32 bits of newc.",
    fix: "seal with overcoat, or use GNU cpio's --renumber-inodes; both renumber the inodes",
};

pub(super) static SPLIT_LINK: Lint = Lint {
    name: "archive/split-link",
    severity: Severity::Note,
    summary: "a hard link to an object that is not a regular file",
    why: "Some unpackers create two objects: for a symbolic link all but bsdtar, for a device \
          busybox. This is usually equivalent.",
    fix: "create two separate objects if the difference matters",
};

pub(super) static THROUGH_LINK: Lint = Lint {
    name: "archive/through-link",
    severity: Severity::Warning,
    summary: "an entry whose parent is a symbolic link of the archive",
    why: "The kernel and cpio follow the link, even out of the target directory: an absolute link \
          leads into the initrd. Some unpackers reject such an entry.",
    fix: "archive the entry under its real path",
};

pub(super) static WHITEOUT_NAME: Lint = Lint {
    name: "archive/whiteout-name",
    severity: Severity::Warning,
    summary: "a whiteout in aufs format",
    why: "A file .wh.NAME deletes NAME in aufs and in overcoat. In overlayfs it is a regular file: \
          NAME stays visible, and so does the file.",
    fix: "seal with overcoat, which writes overlayfs whiteouts (character devices 0:0)",
};

pub(super) static NO_ROOT: Lint = Lint {
    name: "archive/no-root",
    severity: Severity::Warning,
    summary: "the archive has no entry for the root directory",
    why: "The merged root gets the mode of the directory that the overlay is unpacked to: for a \
          tmpfs 1777, with which every user may create files in /.",
    fix: "archive `.` too, as `find . | cpio -o -H newc` does",
};

pub(super) static SIZE_LIMIT: Lint = Lint {
    name: "archive/size-limit",
    severity: Severity::Error,
    summary: "a file that is too large for a newc archive",
    why: "newc stores sizes in 32 bits. Writers reject a file of 4 GiB or more, or truncate its \
          size and write an archive that cannot be read past that file.",
    fix: "put the file into the base, which is a squashfs image, or download it after boot",
};

pub(super) static MANIFEST: Lint = Lint {
    name: "archive/manifest",
    severity: Severity::Warning,
    summary: "the manifest belongs to another archive",
    why: "All results that depend on the manifest (the base's files at build time, and changes \
          since) apply to another archive. One of the two files was copied without the other.",
    fix: "copy the archive and its manifest together, or build both again",
};
