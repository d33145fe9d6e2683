//! POSIX access control lists (ACLs) in the form of Linux extended attributes.
//!
//! An object's ACL and its permission bits are redundant: the bits of the owner and of others equal
//! those of the list, and the bits of the group are the list's mask. A change of one changes the
//! other. New objects in a directory inherit its default list, which then replaces the umask.
//!
//! Follows `linux/posix_acl_xattr.h`, and for validation and modes the kernel's `fs/posix_acl.c`.
//! The text form is that of POSIX.1e (withdrawn draft 17), with numeric users and groups.

mod text;

use std::fmt::Write as _;

pub use text::{AccountIds, TextAcl};

/// Name of the attribute with an object's ACL.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the attribute with a directory's default list.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Returns whether the attribute `name` is an ACL.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// The id of entries without a qualifier (`ACL_UNDEFINED_ID`).
const UNDEFINED_ID: u32 = u32::MAX;

/// The tag of an entry. A list is sorted in the order of the variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AclTag {
    /// The owner.
    UserObj,
    /// A user by id.
    User(u32),
    /// The object's group.
    GroupObj,
    /// A group by id.
    Group(u32),
    /// The maximum permissions of named users and of groups.
    Mask,
    /// All other users.
    Other,
}

impl AclTag {
    /// Returns the position of the tag in the order of a list.
    fn rank(self) -> u8 {
        match self {
            AclTag::UserObj => 0,
            AclTag::User(_) => 1,
            AclTag::GroupObj => 2,
            AclTag::Group(_) => 3,
            AclTag::Mask => 4,
            AclTag::Other => 5,
        }
    }

    /// Returns the id of a named user or group.
    fn id(self) -> Option<u32> {
        match self {
            AclTag::User(id) | AclTag::Group(id) => Some(id),
            _ => None,
        }
    }
}

/// An entry. `perms` is 0 to 7, as in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AclEntry {
    tag: AclTag,
    perms: u16,
}

/// A valid ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<AclEntry>);

impl Acl {
    /// Parses the value of an attribute; `None` if it is not a valid list.
    pub fn parse(value: &[u8]) -> Option<Acl> {
        let (version, raw_entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || raw_entries.len() % 8 != 0 {
            return None;
        }
        let mut entries = Vec::with_capacity(raw_entries.len() / 8);
        for entry in raw_entries.chunks_exact(8) {
            let [t0, t1, m0, m1, id @ ..] = *<&[u8; 8]>::try_from(entry).ok()?;
            let id = u32::from_le_bytes(id);
            let tag = match u16::from_le_bytes([t0, t1]) {
                0x01 => AclTag::UserObj,
                0x02 => AclTag::User(id),
                0x04 => AclTag::GroupObj,
                0x08 => AclTag::Group(id),
                0x10 => AclTag::Mask,
                0x20 => AclTag::Other,
                _ => return None,
            };
            let perms = u16::from_le_bytes([m0, m1]);
            if perms > 7 {
                return None;
            }
            entries.push(AclEntry { tag, perms });
        }
        let acl = Acl(entries);
        acl.is_valid().then_some(acl)
    }

    /// Requires exactly one entry for the owner, the owning group and others, sorted, and a mask if
    /// users or groups are named.
    fn is_valid(&self) -> bool {
        let count = |tag: AclTag| self.0.iter().filter(|entry| entry.tag == tag).count();
        self.0.is_sorted_by_key(|entry| entry.tag.rank())
            && [AclTag::UserObj, AclTag::GroupObj, AclTag::Other].iter().all(|&tag| count(tag) == 1)
            && count(AclTag::Mask) <= 1
            && (count(AclTag::Mask) == 1 || self.0.len() == 3)
    }

    /// Returns the value of the attribute.
    pub fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for AclEntry { tag, perms } in &self.0 {
            let (number, id): (u16, u32) = match *tag {
                AclTag::UserObj => (0x01, UNDEFINED_ID),
                AclTag::User(id) => (0x02, id),
                AclTag::GroupObj => (0x04, UNDEFINED_ID),
                AclTag::Group(id) => (0x08, id),
                AclTag::Mask => (0x10, UNDEFINED_ID),
                AclTag::Other => (0x20, UNDEFINED_ID),
            };
            value.extend_from_slice(&number.to_le_bytes());
            value.extend_from_slice(&perms.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// Returns the text form, such as `user::rw-,user:7:r--,group::r--,mask::r--,other::---`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for AclEntry { tag, perms } in &self.0 {
            let bit = |bit: u16, letter| if perms & bit != 0 { letter } else { '-' };
            let (r, w, x) = (bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
            let comma = if text.is_empty() { "" } else { "," };
            let _ = match tag {
                AclTag::UserObj => write!(text, "{comma}user::{r}{w}{x}"),
                AclTag::User(id) => write!(text, "{comma}user:{id}:{r}{w}{x}"),
                AclTag::GroupObj => write!(text, "{comma}group::{r}{w}{x}"),
                AclTag::Group(id) => write!(text, "{comma}group:{id}:{r}{w}{x}"),
                AclTag::Mask => write!(text, "{comma}mask::{r}{w}{x}"),
                AclTag::Other => write!(text, "{comma}other::{r}{w}{x}"),
            };
        }
        text
    }

    /// Replaces the ids of named users and groups by the results of `user` and `group`.
    #[must_use]
    pub fn with_ids(mut self, user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Acl {
        for entry in &mut self.0 {
            match &mut entry.tag {
                AclTag::User(id) => *id = user(*id),
                AclTag::Group(id) => *id = group(*id),
                _ => {}
            }
        }
        self
    }

    /// Returns the ids of the named users and groups.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|entry| entry.tag.id())
    }

    /// Returns whether the list is equivalent to permission bits.
    pub fn is_plain(&self) -> bool {
        self.0.len() == 3
    }

    /// Returns the mode of an object with this ACL. The set-id and sticky bits are those of `mode`.
    pub fn mode(&self, mode: u16) -> u16 {
        let group = if self.has(AclTag::Mask) { AclTag::Mask } else { AclTag::GroupObj };
        mode & !0o777
            | self.bits(AclTag::UserObj) << 6
            | self.bits(group) << 3
            | self.bits(AclTag::Other)
    }

    fn bits(&self, tag: AclTag) -> u16 {
        self.0.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.perms)
    }

    /// Returns the mode of an object that loses this ACL and has had `mode`. The group gets its own
    /// permissions, without those that the mask allows only for others: with `group::r-x` and
    /// `mask::rwx`, a mode of `0o770` becomes `0o750`.
    pub fn plain_mode(&self, mode: u16) -> u16 {
        let perms =
            |tag| self.0.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.perms);
        let mask = if self.has(AclTag::Mask) { perms(AclTag::Mask) } else { 0o7 };
        self.mode(mode) & !0o070 | (perms(AclTag::GroupObj) & mask) << 3
    }

    /// Updates the list after the object's mode is set to `mode`.
    pub fn set_mode(&mut self, mode: u16) {
        self.for_each_class_entry(|perms, bits| *perms = bits, mode);
    }

    /// Turns a default list into the ACL of a new object that is created with `mode`, and returns
    /// the object's mode.
    pub fn inherit(&mut self, mode: u16) -> u16 {
        self.for_each_class_entry(|perms, bits| *perms &= bits, mode);
        self.mode(mode)
    }

    /// Calls `change` with the permissions of each entry that corresponds to permission bits, and
    /// these bits of `mode`.
    fn for_each_class_entry(&mut self, change: impl Fn(&mut u16, u16), mode: u16) {
        let masked = self.has(AclTag::Mask);
        for AclEntry { tag, perms } in &mut self.0 {
            match tag {
                AclTag::UserObj => change(perms, mode >> 6 & 7),
                AclTag::GroupObj if !masked => change(perms, mode >> 3 & 7),
                AclTag::Mask => change(perms, mode >> 3 & 7),
                AclTag::Other => change(perms, mode & 7),
                _ => {}
            }
        }
    }

    fn has(&self, tag: AclTag) -> bool {
        self.0.iter().any(|entry| entry.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(AclTag, u16)]) -> Acl {
        let acl = Acl(entries.iter().map(|&(tag, perms)| AclEntry { tag, perms }).collect());
        assert!(acl.is_valid());
        acl
    }

    fn named() -> Acl {
        acl(&[
            (AclTag::UserObj, 6),
            (AclTag::User(7), 6),
            (AclTag::GroupObj, 4),
            (AclTag::Mask, 6),
            (AclTag::Other, 0),
        ])
    }

    #[test]
    fn values_round_trip() {
        assert_eq!(Acl::parse(&named().to_value()), Some(named()));
        assert_eq!(named().to_text(), "user::rw-,user:7:rw-,group::r--,mask::rw-,other::---");
    }

    #[test]
    fn invalid_lists_are_rejected_as_by_the_kernel() {
        let value = named().to_value();
        let entry = |n: usize| &value[4 + n * 8..12 + n * 8];
        let of = |entries: &[usize]| {
            [&value[..4], &entries.iter().flat_map(|&n| entry(n)).copied().collect::<Vec<_>>()]
                .concat()
        };
        assert!(Acl::parse(&of(&[0, 2, 4])).is_some());
        assert!(Acl::parse(&of(&[0, 2, 3, 4])).is_some());
        for (why, bad) in [
            ("no header", Vec::new()),
            ("no entries", of(&[])),
            ("another version", [&[1, 0, 0, 0], &value[4..]].concat()),
            ("half an entry", value[..value.len() - 4].to_vec()),
            ("a named user without a mask", of(&[0, 1, 2, 4])),
            ("two masks", of(&[0, 2, 3, 3, 4])),
            ("two owners", of(&[0, 0, 2, 4])),
            ("no others", of(&[0, 2])),
            ("out of order", of(&[2, 0, 4])),
            ("unknown rights", [&of(&[0, 2])[..], &[0x20, 0, 8, 0, 255, 255, 255, 255]].concat()),
            ("an unknown tag", [&of(&[0, 2, 4])[..], &[0x40, 0, 7, 0, 0, 0, 0, 0]].concat()),
        ] {
            assert_eq!(Acl::parse(&bad), None, "{why}");
        }
    }

    #[test]
    fn the_group_bits_of_a_mode_are_the_mask() {
        assert_eq!(named().mode(0o4777), 0o4660);
        let mut list = named();
        list.set_mode(0o640);
        assert_eq!(list.to_text(), "user::rw-,user:7:rw-,group::r--,mask::r--,other::---");
        let mut plain = acl(&[(AclTag::UserObj, 7), (AclTag::GroupObj, 5), (AclTag::Other, 5)]);
        assert!(plain.is_plain() && !named().is_plain());
        plain.set_mode(0o600);
        assert_eq!(plain.mode(0), 0o600);
    }

    #[test]
    fn mode_without_the_list_grants_the_group_no_more_than_its_entry() {
        assert_eq!(named().plain_mode(0o4664), 0o4640);
        let masked = |group, mask| {
            let named = (AclTag::Group(7), 7);
            let list =
                [(AclTag::UserObj, 7), (AclTag::GroupObj, group), named, (AclTag::Mask, mask)];
            acl(&[&list[..], &[(AclTag::Other, 5)]].concat()).plain_mode(0)
        };
        assert_eq!(masked(7, 4), 0o745);
        assert_eq!(masked(5, 7), 0o755);
        assert_eq!(masked(0, 7), 0o705);
        let plain = acl(&[(AclTag::UserObj, 7), (AclTag::GroupObj, 5), (AclTag::Other, 1)]);
        assert_eq!(plain.plain_mode(0o1000), 0o1751);
    }

    #[test]
    fn inherited_permissions_are_the_intersection_of_list_and_mode() {
        let mut list = named();
        assert_eq!(list.inherit(0o1746), 0o1640);
        assert_eq!(list.to_text(), "user::rw-,user:7:rw-,group::r--,mask::r--,other::---");
    }
}
