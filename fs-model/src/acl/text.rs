//! Access lists in text form, whose users and groups may be given by name.
//!
//! Both forms of acl(5) are read: entries separated by commas or by lines, with comments, long or
//! one-letter tags, and the fourth field that star and libarchive add, the id of the named user or
//! group.

use super::{Acl, Grant, Tag};

/// A list as its text has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextAcl(Vec<TextGrant>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct TextGrant {
    kind: Kind,
    name: Option<Name>,
    may: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    User,
    Group,
    Mask,
    Other,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Id(u32),
    Text(Box<[u8]>),
}

impl TextAcl {
    /// Reads a list; `None` for text that is not one.
    pub fn parse(text: &[u8]) -> Option<TextAcl> {
        let mut grants = Vec::new();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            for entry in line.split(|&byte| byte == b',') {
                let entry = entry.trim_ascii();
                if !entry.is_empty() {
                    grants.push(TextGrant::parse(entry)?);
                }
            }
        }
        Some(TextAcl(grants))
    }

    /// Whether the list names users or groups without their ids.
    pub fn has_names(&self) -> bool {
        self.0.iter().any(|grant| matches!(grant.name, Some(Name::Text(_))))
    }

    /// The list with ids, which `user` and `group` give for names. Entries with a name that they do
    /// not know are left out, and `unknown` is called with the name. `None` when the rest is not a
    /// valid list.
    pub fn resolve(
        &self,
        user: impl Fn(&[u8]) -> Option<u32>,
        group: impl Fn(&[u8]) -> Option<u32>,
        mut unknown: impl FnMut(&[u8]),
    ) -> Option<Acl> {
        let mut grants = Vec::new();
        for grant in &self.0 {
            let id = match (&grant.name, grant.kind) {
                (None, _) => None,
                (Some(Name::Id(id)), _) => Some(*id),
                (Some(Name::Text(name)), kind) => {
                    let id = if kind == Kind::User { user(name) } else { group(name) };
                    if id.is_none() {
                        unknown(name);
                        continue;
                    }
                    id
                }
            };
            let tag = match (grant.kind, id) {
                (Kind::User, None) => Tag::Owner,
                (Kind::User, Some(id)) => Tag::User(id),
                (Kind::Group, None) => Tag::OwningGroup,
                (Kind::Group, Some(id)) => Tag::Group(id),
                (Kind::Mask, _) => Tag::Mask,
                (Kind::Other, _) => Tag::Other,
            };
            grants.push(Grant { tag, may: grant.may });
        }
        grants.sort_by_key(|grant| (grant.tag.rank(), grant.tag.id()));
        let acl = Acl(grants);
        acl.is_valid().then_some(acl)
    }
}

impl TextGrant {
    /// `TAG:NAME:PERMISSIONS`, perhaps with `:ID` after it. Mask and others may be without the
    /// empty name.
    fn parse(entry: &[u8]) -> Option<TextGrant> {
        let mut fields = entry.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
        let kind = match fields.next()? {
            b"user" | b"u" => Kind::User,
            b"group" | b"g" => Kind::Group,
            b"mask" | b"m" => Kind::Mask,
            b"other" | b"o" => Kind::Other,
            _ => return None,
        };
        let (second, third) = (fields.next()?, fields.next());
        let (name, permissions) = match (kind, third) {
            (Kind::Mask | Kind::Other, None) => (&b""[..], second),
            (_, third) => (second, third?),
        };
        let given_id = fields.next().and_then(id);
        let name = match (name, id(name), given_id) {
            (b"", ..) => None,
            (_, Some(id), _) | (_, None, Some(id)) => Some(Name::Id(id)),
            (name, None, None) => Some(Name::Text(name.into())),
        };
        if matches!(kind, Kind::Mask | Kind::Other) && name.is_some() {
            return None;
        }
        Some(TextGrant { kind, name, may: permission_bits(permissions)? })
    }
}

fn id(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// Letters in any order, each at most once, with dashes for those that are missing.
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

    fn user(name: &[u8]) -> Option<u32> {
        (name == b"daemon").then_some(1)
    }

    fn resolved(text: &str) -> Option<(String, Vec<String>)> {
        let mut unknown = Vec::new();
        let add = |name: &[u8]| unknown.push(String::from_utf8_lossy(name).into_owned());
        let acl = TextAcl::parse(text.as_bytes())?.resolve(user, |_| None, add)?;
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
    fn text_that_is_not_a_list_is_refused() {
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
