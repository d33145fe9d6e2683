//! What is looked for between an overlay and what it lies over.

use super::super::{Lint, Severity};

pub(super) static BASE_DIGEST: Lint = Lint {
    name: "fit/base-digest",
    severity: Severity::Warning,
    summary: "the overlay was made on another base",
    why: "Its manifest names the images that it was made on, by their digests, and what it lies over \
          is another one. That is no fault in itself, for an overlay goes on working on a newer base, \
          but what it hides there, nobody has seen together. The other lints of this group say what \
          has changed.",
    mend: "look at what else is found, and build it anew where that matters: `overcoat build --rebase`",
};

pub(super) static CHANGED_BENEATH: Lint = Lint {
    name: "fit/changed-beneath",
    severity: Severity::Warning,
    summary: "the base has changed where the overlay hides it",
    why: "The overlay has its own version of a path, made of what the base had there when it was \
          built. The base has changed it since, and machines with this overlay do not get that: a \
          mended configuration file or library stays as it was. So it is with another overlay that \
          lies between them and was not there then: of two that have a path of their own, the upper \
          one's is what a machine gets. Nothing is found where both have the same there.",
    mend: "build the overlay anew on this base: `overcoat build --rebase NAME`",
};

pub(super) static DIRECTORY_OVER_LINK: Lint = Lint {
    name: "fit/directory-over-link",
    severity: Severity::Error,
    summary: "a directory takes the place of a symbolic link of the base",
    why: "The overlay has a directory where the base has a symbolic link, as /bin, /lib and /sbin are \
          in a root with merged /usr. The union shows the overlay's directory, with nothing in it but \
          what the overlay brings: with such a /lib no program starts. It happens when an overlay is \
          put together by hand, or on a base of another layout. Where the overlay's manifest says \
          that it was made over this very link, and it is no /bin, /sbin or /lib, it is a note: \
          packages replace links of their own.",
    mend: "put the files where the link leads to: usr/bin/… instead of bin/…",
};

pub(super) static FILE_OVER_DIRECTORY: Lint = Lint {
    name: "fit/file-over-directory",
    severity: Severity::Warning,
    summary: "something takes the place of a directory of the base",
    why: "Everything that the base has in that directory is hidden.",
    mend: "give it another name, or delete the directory on purpose when the overlay is made",
};

pub(super) static DIRECTORY_OVER_FILE: Lint = Lint {
    name: "fit/directory-over-file",
    severity: Severity::Warning,
    summary: "a directory takes the place of a file of the base",
    why: "Whoever reads the file finds a directory instead.",
    mend: "give it another name, or delete the file on purpose when the overlay is made",
};

pub(super) static WHITEOUT_OF_NOTHING: Lint = Lint {
    name: "fit/whiteout-of-nothing",
    severity: Severity::Note,
    summary: "something is deleted that is not there",
    why: "The base has had it once, or has never had it. It does no harm, but says that overlay and \
          base are not of one time.",
    mend: "build the overlay anew on this base",
};

pub(super) static PACKAGE_DATABASE: Lint = Lint {
    name: "fit/package-database",
    severity: Severity::Error,
    summary: "the package database is at odds with the base's packages",
    why: "An overlay that installs a package brings dpkg's whole database, /var/lib/dpkg/status, as \
          it was then. Over a newer base it hides that base's: what is installed and in which version \
          is then said wrong, to apt, to security scanners, and to whoever looks into a machine. \
          Installing something there may fail, or downgrade a library.",
    mend: "build the overlay anew on this base: `overcoat build --rebase NAME`",
};

pub(super) static CONFFILE: Lint = Lint {
    name: "fit/conffile-shadowed",
    severity: Severity::Note,
    summary: "a configuration file of a package of the base is replaced",
    why: "The overlay has its own version of a file that dpkg would ask about. When the base's \
          package is upgraded, machines with this overlay go on with the old file: nobody is asked. \
          When the base has changed it already, fit/changed-beneath says so.",
    mend: "where the program has one, put a file into its .d directory instead",
};

pub(super) static ACCOUNTS: Lint = Lint {
    name: "fit/accounts",
    severity: Severity::Error,
    summary: "accounts of the base are missing or have other numbers",
    why: "The overlay's /etc/passwd or /etc/group hides the base's, which has an account that it has \
          not, or with another number: a service of the base does not start as its user, or files \
          belong to somebody else. Where the overlay's manifest says that it was made over this very \
          file, accounts may have been taken away on purpose: then only those are found that files \
          of the base still belong to.",
    mend: "build the overlay anew on this base, or let sysusers.d make the overlay's accounts",
};
