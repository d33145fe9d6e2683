//! Access lists in text form, with users and groups by name or id.
//!
//! Both forms of acl(5) are accepted: entries separated by commas or by newlines, with comments,
//! long or one-letter tags, and the fourth field of star and libarchive, the id of the named user
//! or group.

use std::collections::BTreeMap;

use super::{Acl, AclEntry, AclTag};

/// The ids of users and groups by name.
#[derive(Clone, Debug, Default)]
pub struct AccountIds {
    /// Users.
    pub users: BTreeMap<String, u32>,
    /// Groups.
    pub groups: BTreeMap<String, u32>,
}

impl AccountIds {
    fn find(ids: &BTreeMap<String, u32>, name: &[u8]) -> Option<u32> {
        std::str::from_utf8(name).ok().and_then(|name| ids.get(name)).copied()
    }
}

/// A list in text form, with unresolved names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextAcl(Vec<TextAclEntry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct TextAclEntry {
    kind: TextAclTag,
    name: Option<TextQualifier>,
    perms: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextAclTag {
    User,
    Group,
    Mask,
    Other,
}

/// The user or group of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TextQualifier {
    Id(u32),
    Text(Box<[u8]>),
}

impl TextAcl {
    /// Parses a list; `None` if the text is malformed.
    pub fn parse(text: &[u8]) -> Option<TextAcl> {
        let mut entries = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            for entry in line.split(|&byte| byte == b',') {
                let entry = entry.trim_ascii();
                if !entry.is_empty() {
                    entries.push(TextAclEntry::parse(entry)?);
                }
            }
        }
        Some(TextAcl(entries))
    }

    /// Returns whether the list has names of users or groups without an id.
    pub fn has_names(&self) -> bool {
        self.0.iter().any(|entry| matches!(entry.name, Some(TextQualifier::Text(_))))
    }

    /// Resolves names. Entries with unknown names are omitted, and `unknown` is called with each
    /// such name. Returns `None` if the result is not a valid list.
    pub fn resolve(&self, ids: &AccountIds, mut unknown: impl FnMut(&[u8])) -> Option<Acl> {
        let mut entries = Vec::new();
        for entry in &self.0 {
            let id = match (&entry.name, entry.kind) {
                (None, _) => None,
                (Some(TextQualifier::Id(id)), _) => Some(*id),
                (Some(TextQualifier::Text(name)), kind) => {
                    let ids = if kind == TextAclTag::User { &ids.users } else { &ids.groups };
                    let id = AccountIds::find(ids, name);
                    if id.is_none() {
                        unknown(name);
                        continue;
                    }
                    id
                }
            };
            let tag = match (entry.kind, id) {
                (TextAclTag::User, None) => AclTag::UserObj,
                (TextAclTag::User, Some(id)) => AclTag::User(id),
                (TextAclTag::Group, None) => AclTag::GroupObj,
                (TextAclTag::Group, Some(id)) => AclTag::Group(id),
                (TextAclTag::Mask, _) => AclTag::Mask,
                (TextAclTag::Other, _) => AclTag::Other,
            };
            entries.push(AclEntry { tag, perms: entry.perms });
        }
        entries.sort_by_key(|entry| (entry.tag.rank(), entry.tag.id()));
        let acl = Acl(entries);
        acl.is_valid().then_some(acl)
    }
}

impl TextAclEntry {
    /// Parses `TAG:NAME:PERMISSIONS`, optionally followed by `:ID`. The empty name of mask and
    /// other may be omitted.
    fn parse(entry: &[u8]) -> Option<TextAclEntry> {
        let mut fields = entry.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
        let kind = match fields.next()? {
            b"user" | b"u" => TextAclTag::User,
            b"group" | b"g" => TextAclTag::Group,
            b"mask" | b"m" => TextAclTag::Mask,
            b"other" | b"o" => TextAclTag::Other,
            _ => return None,
        };
        let (second, third) = (fields.next()?, fields.next());
        let (name, permissions) = match (kind, third) {
            (TextAclTag::Mask | TextAclTag::Other, None) => (&b""[..], second),
            (_, third) => (second, third?),
        };
        let given_id = fields.next().and_then(id);
        let name = match (name, id(name), given_id) {
            (b"", ..) => None,
            (_, Some(id), _) | (_, None, Some(id)) => Some(TextQualifier::Id(id)),
            (name, None, None) => Some(TextQualifier::Text(name.into())),
        };
        if matches!(kind, TextAclTag::Mask | TextAclTag::Other) && name.is_some() {
            return None;
        }
        Some(TextAclEntry { kind, name, perms: permission_bits(permissions)? })
    }
}

fn id(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// Parses letters in any order, each at most once, and dashes.
fn permission_bits(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 3 {
        return None;
    }
    text.iter().try_fold(0, |bits, letter| {
        let bit = match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => return Some(bits),
            _ => return None,
        };
        (bits & bit == 0).then_some(bits | bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Option<(String, Vec<String>)> {
        let mut unknown = Vec::new();
        let add = |name: &[u8]| unknown.push(String::from_utf8_lossy(name).into_owned());
        let users = BTreeMap::from([("daemon".to_owned(), 1)]);
        let ids = AccountIds { users, ..AccountIds::default() };
        let acl = TextAcl::parse(text.as_bytes())?.resolve(&ids, add)?;
        Some((acl.to_text(), unknown))
    }

    #[test]
    fn all_forms_of_text_are_read() {
        let list = "user::rw-,user:1:r--,user:7:rw-,group::r--,mask::rw-,other::---";
        for text in [
            list,
            "user::rw-\nuser:daemon:r--\nuser:7:rw-\ngroup::r--\nmask::rw-\nother::---\n",
            "u::rw,u:7:rw,u:daemon:r,g::r,m:rw,o:-",
            "other::---,mask::rw-,user:7:wr-,group::r--,user:daemon:r--:1,user::rw-",
            "user::rw-,group::r--,mask::rw-,other::---,user:alice:rw-:7,user:daemon:r--:1",
            "user::rw-\nuser:1:r--\t#effective:r--\n user : 7 : rw- \ngroup::r--\nmask::rw-\no::-",
        ] {
            assert_eq!(resolved(text), Some((list.to_owned(), Vec::new())), "{text}");
        }
    }

    #[test]
    fn entries_with_unknown_names_are_left_out() {
        let text = "user::rw-,user:alice:rw-,group::r--,group:staff:rw-,mask::rw-,other::r--";
        assert!(TextAcl::parse(text.as_bytes()).unwrap().has_names());
        assert_eq!(
            resolved(text),
            Some((
                "user::rw-,group::r--,mask::rw-,other::r--".to_owned(),
                vec!["alice".to_owned(), "staff".to_owned()]
            ))
        );
    }

    #[test]
    fn text_that_is_not_a_list_is_rejected() {
        for bad in [
            "",
            "user::rwx",
            "user::rwx,group::r-x",
            "user::rwz,group::r--,other::---",
            "user::rw-,user:7:rw-,group::r--,other::---",
            "user::,group::r--,other::---",
            "user::rr-,group::r--,other::---",
            "user::rw-,group::r--,other:7:---",
            "user,group::r--,other::---",
            "owner::rw-,group::r--,other::---",
        ] {
            assert_eq!(resolved(bad), None, "{bad}");
        }
    }
}
