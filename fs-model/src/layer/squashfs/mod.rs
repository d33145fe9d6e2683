//! A lazy squashfs reader.
