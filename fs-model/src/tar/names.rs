//! Names and link targets of members, as GNU tar interprets them.

/// Returns the components of a path, without `.` and repeated slashes.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Returns whether GNU tar creates a symbolic link with this target last, because it can lead out
/// of the root.
pub fn is_created_last(target: &[u8]) -> bool {
    target.starts_with(b"/") || components(target).any(|name| name == b"..")
}

/// Returns the part of a hard link's target after its last `..`: GNU tar drops the rest.
pub fn after_dot_dot(target: &[u8]) -> &[u8] {
    let mut from = 0;
    let mut at = 0;
    for component in target.split(|&byte| byte == b'/') {
        at += component.len();
        if component == b".." {
            from = at;
        }
        at += 1;
    }
    &target[from..]
}
