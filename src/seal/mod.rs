//! Writers: a delta becomes an archive.
