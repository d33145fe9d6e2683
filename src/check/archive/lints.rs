//! What is looked for in an archive. What each unpacker does was tried with each of them.

use super::super::{Lint, Severity};

const SEAL: &str = "seal it anew with overcoat, which writes what all unpackers take";

pub(in super::super) static UNREADABLE: Lint = Lint {
    name: "archive/unreadable",
    severity: Severity::Error,
    summary: "the archive cannot be read",
    why: "Nothing of it reaches the machine, or only what stands before the damage: the kernel and \
          the programs that unpack say so on the console at best, and boot on. What lies in \
          a damaged block of a squashfs image cannot be read: \"input/output error\".",
    mend: "copy or build it again; newc cpio, plain or in gzip or zstd, is what is read",
};

pub(super) static NO_TRAILER: Lint = Lint {
    name: "archive/no-trailer",
    severity: Severity::Error,
    summary: "the archive does not end as archives do",
    why: "Without its last entry, TRAILER!!!, nobody can tell whether the archive is whole. GNU cpio \
          and bsdtar end with an error, and a start-up script that looks at that stops.",
    mend: SEAL,
};

pub(super) static JUNK: Lint = Lint {
    name: "archive/junk",
    severity: Severity::Error,
    summary: "something follows the archive that is none",
    why: "The kernel stops with an error at the first byte that it does not know, and what stands \
          after it is lost; cpio programs do not look at it at all.",
    mend: "cut it off, or seal the overlay anew; only zeros and archives may follow an archive",
};

pub(super) static SEVERAL_MEMBERS: Lint = Lint {
    name: "archive/several-members",
    severity: Severity::Error,
    summary: "one archive is spread over several compressed members",
    why: "The kernel takes the end of the first gzip member or zstd frame for the end of the \
          archive: \"junk at the end of compressed archive\". The file that was being written stays \
          cut off, all later ones are missing, and the machine boots on. gzip and zstd themselves do \
          not mind, so it looks well everywhere else. Tools that compress in parallel write such \
          streams (bgzip, mgzip, pzstd); pigz does not.",
    mend: "compress it as one member: overcoat does, also in parallel, and so do gzip, pigz and zstd",
};

pub(super) static SEVERAL_ARCHIVES: Lint = Lint {
    name: "archive/several-archives",
    severity: Severity::Warning,
    summary: "several archives follow each other",
    why: "The kernel reads all of them, as those of an initrd. A cpio program, and a start-up script \
          that calls one, ends at the first trailer: the later archives are missing there.",
    mend: "make one archive of them, or give them to the machine one by one, as overlays",
};

pub(super) static GZIP_HEADER: Lint = Lint {
    name: "archive/gzip-header",
    severity: Severity::Error,
    summary: "a gzip header that the kernel does not take",
    why: "The kernel's gunzip knows a header with a file name or with nothing in it. With any other \
          field (FEXTRA, FCOMMENT, FHCRC) it takes the field for compressed data, and nothing is \
          unpacked. gzip, busybox and libarchive do not mind.",
    mend: "compress it with gzip or pigz, or seal it with overcoat: bgzip and mgzip write FEXTRA",
};

pub(super) static MISSING_PARENT: Lint = Lint {
    name: "archive/missing-parent",
    severity: Severity::Error,
    summary: "something is in a directory that the archive does not have",
    why: "The kernel drops it without a word; GNU cpio fails, unless it is told to make directories \
          (-d), and busybox cpio ends there. Whoever makes the directory does not know its mode and \
          owner: it is the base's no more.",
    mend: "archive every parent directory too, before what is in it: `find . | cpio -o -H newc`, or \
           overcoat",
};

pub(super) static ORDER: Lint = Lint {
    name: "archive/order",
    severity: Severity::Error,
    summary: "something comes before the directory that it is in",
    why: "When it is unpacked its directory is not there yet: the kernel drops it without a word, \
          GNU cpio fails, and busybox cpio ends there.",
    mend: "archive a directory before what is in it: without `find -depth`",
};

pub(super) static DUPLICATE_NAME: Lint = Lint {
    name: "archive/duplicate-name",
    severity: Severity::Error,
    summary: "a path stands in the archive more than once",
    why: "Which one a machine has depends on who unpacks: for the kernel and bsdtar the last one \
          wins, for GNU cpio and busybox the first.",
    mend: SEAL,
};

pub(super) static ABSOLUTE_NAME: Lint = Lint {
    name: "archive/absolute-name",
    severity: Severity::Error,
    summary: "a name that begins at the root",
    why: "GNU cpio writes it to the root of the system that it runs in, not to the directory that \
          the overlay is unpacked to: on a machine that boots, into its initrd. On the host of \
          somebody who looks into it, over the host's own files.",
    mend: "archive from within the directory: `cd DIR && find . | cpio -o -H newc`",
};

pub(super) static DOTDOT_NAME: Lint = Lint {
    name: "archive/dotdot-name",
    severity: Severity::Error,
    summary: "a name that leads upwards",
    why: "It is written outside of the directory that the overlay is unpacked to, or refused.",
    mend: "archive from within the directory: `cd DIR && find . | cpio -o -H newc`",
};

pub(super) static DROPPED: Lint = Lint {
    name: "archive/dropped-entry",
    severity: Severity::Error,
    summary: "an entry that the kernel drops",
    why: "It passes over it without a word, and so the machine lacks it: a name or a target of more \
          than PATH_MAX bytes, a name that does not end where it should, a type that there is not, a \
          symbolic link without a target.",
    mend: SEAL,
};

pub(super) static CHECKSUM: Lint = Lint {
    name: "archive/checksum",
    severity: Severity::Error,
    summary: "content that is not what its checksum says",
    why: "The archive is of the kind that has sums (070702), and this one does not fit: the content \
          was damaged. The kernel says \"bad data checksum\" and stops: what comes after it is missing.",
    mend: "copy or build it again",
};

pub(super) static SHARED_INODE: Lint = Lint {
    name: "archive/shared-inode",
    severity: Severity::Error,
    summary: "different files with one inode number",
    why: "Entries with the same number and more than one link are names of one file: the kernel, GNU \
          cpio and bsdtar make one of them, with the content of whichever came last or first. That \
          happens when numbers of 64 bits are cut to the 32 that newc has.",
    mend: "seal it with overcoat, which numbers anew, or with GNU cpio's --renumber-inodes",
};

pub(super) static SPLIT_LINK: Lint = Lint {
    name: "archive/split-link",
    severity: Severity::Note,
    summary: "a hard link of something that is no file",
    why: "No unpacker but bsdtar makes one object of two names of a symbolic link, and busybox none \
          of those of a device either: they come out as two, which is mostly as good.",
    mend: "make two of them, if it matters",
};

pub(super) static THROUGH_LINK: Lint = Lint {
    name: "archive/through-link",
    severity: Severity::Warning,
    summary: "something is put through a symbolic link of the archive",
    why: "The kernel and cpio follow the link, also when it leads out of where the overlay is \
          unpacked to: an absolute one into the initrd. Careful unpackers refuse it.",
    mend: "archive it under the path where it is to be",
};

pub(super) static WHITEOUT_NAME: Lint = Lint {
    name: "archive/whiteout-name",
    severity: Severity::Warning,
    summary: "a deletion that only aufs knows",
    why: "A file .wh.NAME deletes NAME for aufs, and for overcoat. For overlayfs it is a file of that \
          name: NAME is still there, and so is the file.",
    mend: "seal it with overcoat, which deletes by character devices 0:0, as overlayfs does",
};

pub(super) static NO_ROOT: Lint = Lint {
    name: "archive/no-root",
    severity: Severity::Warning,
    summary: "the archive does not say what the root directory is like",
    why: "The merged root has the mode of the directory that the overlay was unpacked to: of a tmpfs \
          that is 1777, and everybody may create files in /.",
    mend: "archive `.` too: `find . | cpio -o -H newc` does",
};

pub(super) static SIZE_LIMIT: Lint = Lint {
    name: "archive/size-limit",
    severity: Severity::Error,
    summary: "a file that is too large for an archive",
    why: "newc has 32 bits for a size. Writers refuse a file of 4 GiB or more, or cut its size and \
          write an archive of which nothing after it can be read.",
    mend: "put it into the base, which is a squashfs image, or fetch it when the machine is up",
};

pub(super) static MANIFEST: Lint = Lint {
    name: "archive/manifest",
    severity: Severity::Warning,
    summary: "the manifest is not that of the archive",
    why: "What is said of the archive, and what is found out by the manifest (what its base had, what \
          has changed there), is true of another one. One of the two was copied without the other.",
    mend: "copy archive and manifest together, or build both again",
};
