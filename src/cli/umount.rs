//! umount
