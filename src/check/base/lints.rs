//! Lints of an overlay against the layers below it.

use super::super::{Lint, Severity};

pub(super) static BASE_DIGEST: Lint = Lint {
    name: "fit/base-digest",
    severity: Severity::Warning,
    summary: "the overlay was built on another base",
    why: "The manifest names the images that the overlay was built on by their digests, and a \
          layer below it has another digest. An overlay usually works on a newer base, but this \
          combination is untested. The other lints of this group show what has changed.",
    fix: "check the other findings, and rebuild the overlay where they matter: `overcoat build \
          --rebase`",
};

pub(super) static CHANGED_BENEATH: Lint = Lint {
    name: "fit/changed-beneath",
    severity: Severity::Warning,
    summary: "the base has changed at a path that the overlay hides",
    why: "The overlay contains its own version of a path, derived from the base at build time. The \
          base has changed that path since, and machines with this overlay do not get the change: \
          a fixed configuration file or library stays as it was. The same applies to another \
          overlay below this one that did not exist at build time: the upper overlay's version \
          hides the other's. Paths with equal content in both are not reported.",
    fix: "rebuild the overlay on this base: `overcoat build --rebase NAME`",
};

pub(super) static DIRECTORY_OVER_LINK: Lint = Lint {
    name: "fit/directory-over-link",
    severity: Severity::Error,
    summary: "a directory replaces a symbolic link of the base",
    why: "The overlay has a directory where the base has a symbolic link, such as /bin, /lib and \
          /sbin in a root with merged /usr. The merged root shows only the overlay's files there: \
          with such a /lib no program starts. It happens when an overlay is assembled by hand, or \
          on a base with another layout. If the manifest records that the overlay was built over \
          this link, and the path is not /bin, /sbin or /lib, the finding is a note: packages \
          replace links of their own.",
    fix: "put the files where the link points: usr/bin/… instead of bin/…",
};

pub(super) static FILE_OVER_DIRECTORY: Lint = Lint {
    name: "fit/file-over-directory",
    severity: Severity::Warning,
    summary: "a directory of the base is replaced by another type of object",
    why: "All files of the base in that directory are hidden.",
    fix: "use another name, or delete the directory explicitly when the overlay is built",
};

pub(super) static DIRECTORY_OVER_FILE: Lint = Lint {
    name: "fit/directory-over-file",
    severity: Severity::Warning,
    summary: "a directory replaces a file of the base",
    why: "Programs that open the file find a directory.",
    fix: "use another name, or delete the file explicitly when the overlay is built",
};

pub(super) static WHITEOUT_OF_NOTHING: Lint = Lint {
    name: "fit/whiteout-of-nothing",
    severity: Severity::Note,
    summary: "a whiteout of a path that does not exist",
    why: "The base does not have the path any more, or never had it. The whiteout is harmless, but \
          shows that the overlay was built on another base.",
    fix: "rebuild the overlay on this base",
};

pub(super) static PACKAGE_DATABASE: Lint = Lint {
    name: "fit/package-database",
    severity: Severity::Error,
    summary: "the package database does not match the base's packages",
    why: "An overlay that installs a package contains the whole dpkg database, \
          /var/lib/dpkg/status, of build time. On a newer base it hides the base's own: apt, \
          security scanners and administrators see wrong packages and versions, and installing a \
          package may fail or downgrade a library.",
    fix: "rebuild the overlay on this base: `overcoat build --rebase NAME`",
};

pub(super) static CONFFILE: Lint = Lint {
    name: "fit/conffile-shadowed",
    severity: Severity::Note,
    summary: "a configuration file of a base package is replaced",
    why: "The overlay has its own version of a dpkg conffile. After an upgrade of the package in \
          the base, machines with this overlay keep the old file, without dpkg's question. If the \
          base has already changed the file, fit/changed-beneath reports it.",
    fix: "add a file to the program's .d directory instead, if it has one",
};

pub(super) static ACCOUNTS: Lint = Lint {
    name: "fit/accounts",
    severity: Severity::Error,
    summary: "accounts of the base are missing or have other ids",
    why: "The overlay's /etc/passwd or /etc/group hides the base's, and an account is missing or \
          has another id: a service of the base does not start as its user, or files belong to \
          another account. If the manifest records that the overlay was built over this file, \
          accounts may have been removed on purpose: then only accounts that own files of the base \
          are reported.",
    fix: "rebuild the overlay on this base, or create the overlay's accounts with sysusers.d",
};
