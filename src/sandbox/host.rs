//! Programs, users and groups of the host.
//!
//! `/etc/passwd` and `/etc/group` are read directly, and `getent` is asked about other accounts,
//! such as those of LDAP. The C library's functions are not used: in a statically linked program
//! they load NSS modules of the host, which may need another version of the C library.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid};

/// Finds a program in `PATH`, then in the standard directories.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A group of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostGroup {
    pub(crate) name: String,
    pub(crate) members: Vec<String>,
}

/// Returns the name of a user; `None` if the host does not know one.
pub(crate) fn user_name(uid: Uid) -> Option<String> {
    find_account("passwd", uid.as_raw(), |line| parse_account(line).map(|(name, id, _)| (id, name)))
}

/// Returns a group; `None` if the host does not know it.
pub(crate) fn group(gid: Gid) -> Option<HostGroup> {
    find_account("group", gid.as_raw(), |line| {
        let (name, id, rest) = parse_account(line)?;
        let members = rest.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some((id, HostGroup { name, members }))
    })
}

fn find_account<T>(database: &str, id: u32, parse: impl Fn(&str) -> Option<(u32, T)>) -> Option<T> {
    let find = |bytes: Vec<u8>| {
        let text = String::from_utf8_lossy(&bytes);
        text.lines().filter_map(&parse).find(|(found, _)| *found == id).map(|(_, account)| account)
    };
    let ask = || {
        let output = Command::new(find_program("getent")?)
            .args([database, &id.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        output.ok().map(|output| output.stdout)
    };
    fs::read(format!("/etc/{database}")).ok().and_then(find).or_else(|| ask().and_then(find))
}

/// Parses a line of passwd(5) or group(5): the name, the id, and the fields after it.
fn parse_account(line: &str) -> Option<(String, u32, &str)> {
    let mut fields = line.splitn(4, ':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let id = fields.nth(1)?.parse().ok()?;
    Some((name.to_owned(), id, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_files_are_those_of_the_c_library() {
        for id in 0..2000 {
            let user = nix::unistd::User::from_uid(Uid::from_raw(id)).unwrap();
            assert_eq!(user_name(Uid::from_raw(id)), user.map(|user| user.name), "user {id}");
            let expected = nix::unistd::Group::from_gid(Gid::from_raw(id)).unwrap();
            let expected = expected.map(|group| HostGroup { name: group.name, members: group.mem });
            assert_eq!(group(Gid::from_raw(id)), expected, "group {id}");
        }
    }

    #[test]
    fn lines_without_a_name_or_an_id_are_no_accounts() {
        for line in ["", "::0:", "+", "+::::::", "name:x", "name:x:", "name:x:-1:", "# text"] {
            assert_eq!(parse_account(line), None, "{line}");
        }
        assert_eq!(parse_account("a:x:1"), Some(("a".to_owned(), 1, "")));
    }
}
