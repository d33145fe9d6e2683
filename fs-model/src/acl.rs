//! POSIX access lists, as Linux keeps them in extended attributes.
//!
//! An object's access list and its permission bits say the same thing twice: the bits of the owner
//! and of others are those of the list, the bits of the group are the list's mask. Whatever changes
//! one changes the other. A directory's default list is what objects made in it begin with, in
//! place of the umask.
//!
//! Follows `linux/posix_acl_xattr.h`, and the kernel's `fs/posix_acl.c` in what is valid and what
//! a mode makes of a list. The text form is that of POSIX.1e (withdrawn draft 17), with numbers
//! for users and groups.

mod text;

use std::fmt::Write as _;

pub use text::TextAcl;

/// The attribute of an object's access list.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory's default list.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Whether an attribute of this name is an access list.
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about. In this order they stand in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// The owner.
    Owner,
    /// A user by id.
    User(u32),
    /// The object's group.
    OwningGroup,
    /// A group by id.
    Group(u32),
    /// The most that users by id and groups get.
    Mask,
    /// Everybody else.
    Other,
}

impl Tag {
    /// The place among the tags of a list.
    fn rank(self) -> u8 {
        match self {
            Tag::Owner => 0,
            Tag::User(_) => 1,
            Tag::OwningGroup => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        }
    }

    /// The id of a named user or group.
    fn id(self) -> Option<u32> {
        match self {
            Tag::User(id) | Tag::Group(id) => Some(id),
            _ => None,
        }
    }
}

/// What somebody may do: the bits of a mode, `0o0` to `0o7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    tag: Tag,
    may: u16,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Grant>);

impl Acl {
    /// Reads the value of an attribute; `None` for what is no valid list.
    pub fn parse(value: &[u8]) -> Option<Acl> {
        let (version, entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
            return None;
        }
        let mut grants = Vec::with_capacity(entries.len() / 8);
        for entry in entries.chunks_exact(8) {
            let [t0, t1, m0, m1, id @ ..] = *<&[u8; 8]>::try_from(entry).ok()?;
            let id = u32::from_le_bytes(id);
            let tag = match u16::from_le_bytes([t0, t1]) {
                0x01 => Tag::Owner,
                0x02 => Tag::User(id),
                0x04 => Tag::OwningGroup,
                0x08 => Tag::Group(id),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return None,
            };
            let may = u16::from_le_bytes([m0, m1]);
            if may > 7 {
                return None;
            }
            grants.push(Grant { tag, may });
        }
        let acl = Acl(grants);
        acl.is_valid().then_some(acl)
    }

    /// One owner, one owning group, one for others, in order; a mask if anybody is named.
    fn is_valid(&self) -> bool {
        let count = |tag: Tag| self.0.iter().filter(|grant| grant.tag == tag).count();
        self.0.is_sorted_by_key(|grant| grant.tag.rank())
            && [Tag::Owner, Tag::OwningGroup, Tag::Other].iter().all(|&tag| count(tag) == 1)
            && count(Tag::Mask) <= 1
            && (count(Tag::Mask) == 1 || self.0.len() == 3)
    }

    /// The value of the attribute.
    pub fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for Grant { tag, may } in &self.0 {
            let (number, id): (u16, u32) = match *tag {
                Tag::Owner => (0x01, NOBODY),
                Tag::User(id) => (0x02, id),
                Tag::OwningGroup => (0x04, NOBODY),
                Tag::Group(id) => (0x08, id),
                Tag::Mask => (0x10, NOBODY),
                Tag::Other => (0x20, NOBODY),
            };
            value.extend_from_slice(&number.to_le_bytes());
            value.extend_from_slice(&may.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    /// The list in words, such as `user::rw-,user:7:r--,group::r--,mask::r--,other::---`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Grant { tag, may } in &self.0 {
            let bit = |bit: u16, letter| if may & bit != 0 { letter } else { '-' };
            let (r, w, x) = (bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
            let comma = if text.is_empty() { "" } else { "," };
            let _ = match tag {
                Tag::Owner => write!(text, "{comma}user::{r}{w}{x}"),
                Tag::User(id) => write!(text, "{comma}user:{id}:{r}{w}{x}"),
                Tag::OwningGroup => write!(text, "{comma}group::{r}{w}{x}"),
                Tag::Group(id) => write!(text, "{comma}group:{id}:{r}{w}{x}"),
                Tag::Mask => write!(text, "{comma}mask::{r}{w}{x}"),
                Tag::Other => write!(text, "{comma}other::{r}{w}{x}"),
            };
        }
        text
    }

    /// The same list with other ids, each of which `user` or `group` gives for one.
    #[must_use]
    pub fn with_ids(mut self, user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) -> Acl {
        for grant in &mut self.0 {
            match &mut grant.tag {
                Tag::User(id) => *id = user(*id),
                Tag::Group(id) => *id = group(*id),
                _ => {}
            }
        }
        self
    }

    /// The ids of those it names.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|grant| grant.tag.id())
    }

    /// Whether it says no more than permission bits can.
    pub fn is_plain(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits of an object with this access list, `mode` being those it had: the set-id
    /// and sticky bits stay.
    pub fn mode(&self, mode: u16) -> u16 {
        let group = if self.has(Tag::Mask) { Tag::Mask } else { Tag::OwningGroup };
        mode & !0o777 | self.bits(Tag::Owner) << 6 | self.bits(group) << 3 | self.bits(Tag::Other)
    }

    fn bits(&self, tag: Tag) -> u16 {
        self.0.iter().find(|grant| grant.tag == tag).map_or(0, |grant| grant.may)
    }

    /// The permission bits of an object that loses this access list, `mode` being those it had.
    /// Its group gets what the list gives it, never what the mask gives to others: with
    /// `group::r-x` and `mask::rwx` a mode of `0o770` becomes `0o750`.
    pub fn plain_mode(&self, mode: u16) -> u16 {
        let may = |tag| self.0.iter().find(|grant| grant.tag == tag).map_or(0, |grant| grant.may);
        let mask = if self.has(Tag::Mask) { may(Tag::Mask) } else { 0o7 };
        self.mode(mode) & !0o070 | (may(Tag::OwningGroup) & mask) << 3
    }

    /// Makes it the access list of an object whose mode is set to `mode`.
    pub fn set_mode(&mut self, mode: u16) {
        self.on_class_grants(|may, bits| *may = bits, mode);
    }

    /// Makes a default list the access list of a new object that is asked to have `mode`, and
    /// gives the mode that it gets.
    pub fn inherit(&mut self, mode: u16) -> u16 {
        self.on_class_grants(|may, bits| *may &= bits, mode);
        self.mode(mode)
    }

    /// Calls `change` with each entry that the permission bits speak of too, and with these.
    fn on_class_grants(&mut self, change: impl Fn(&mut u16, u16), mode: u16) {
        let masked = self.has(Tag::Mask);
        for Grant { tag, may } in &mut self.0 {
            match tag {
                Tag::Owner => change(may, mode >> 6 & 7),
                Tag::OwningGroup if !masked => change(may, mode >> 3 & 7),
                Tag::Mask => change(may, mode >> 3 & 7),
                Tag::Other => change(may, mode & 7),
                _ => {}
            }
        }
    }

    fn has(&self, tag: Tag) -> bool {
        self.0.iter().any(|grant| grant.tag == tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(grants: &[(Tag, u16)]) -> Acl {
        let acl = Acl(grants.iter().map(|&(tag, may)| Grant { tag, may }).collect());
        assert!(acl.is_valid());
        acl
    }

    fn named() -> Acl {
        acl(&[
            (Tag::Owner, 6),
            (Tag::User(7), 6),
            (Tag::OwningGroup, 4),
            (Tag::Mask, 6),
            (Tag::Other, 0),
        ])
    }

    #[test]
    fn a_value_is_read_as_it_was_written() {
        assert_eq!(Acl::parse(&named().to_value()), Some(named()));
        assert_eq!(named().to_text(), "user::rw-,user:7:rw-,group::r--,mask::rw-,other::---");
    }

    #[test]
    fn what_the_kernel_refuses_is_no_list() {
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
            ("nothing in it", of(&[])),
            ("another version", [&[1, 0, 0, 0], &value[4..]].concat()),
            ("half an entry", value[..value.len() - 4].to_vec()),
            ("somebody named without a mask", of(&[0, 1, 2, 4])),
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
        let mut plain = acl(&[(Tag::Owner, 7), (Tag::OwningGroup, 5), (Tag::Other, 5)]);
        assert!(plain.is_plain() && !named().is_plain());
        plain.set_mode(0o600);
        assert_eq!(plain.mode(0), 0o600);
    }

    #[test]
    fn losing_a_list_never_gives_the_group_what_the_mask_gave_to_others() {
        assert_eq!(named().plain_mode(0o4664), 0o4640);
        let masked = |group, mask| {
            let named = (Tag::Group(7), 7);
            let list = [(Tag::Owner, 7), (Tag::OwningGroup, group), named, (Tag::Mask, mask)];
            acl(&[&list[..], &[(Tag::Other, 5)]].concat()).plain_mode(0)
        };
        assert_eq!(masked(7, 4), 0o745);
        assert_eq!(masked(5, 7), 0o755);
        assert_eq!(masked(0, 7), 0o705);
        let plain = acl(&[(Tag::Owner, 7), (Tag::OwningGroup, 5), (Tag::Other, 1)]);
        assert_eq!(plain.plain_mode(0o1000), 0o1751);
    }

    #[test]
    fn a_new_object_gets_what_both_the_list_and_its_maker_allow() {
        let mut list = named();
        assert_eq!(list.inherit(0o1746), 0o1640);
        assert_eq!(list.to_text(), "user::rw-,user:7:rw-,group::r--,mask::r--,other::---");
    }
}
