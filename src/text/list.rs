//! Lists that are cut after some items.

/// Returns how many of `count` items are shown if at most `max` are wanted. The line that counts
/// the others is as long as an item, so a single item is never left out.
pub(crate) fn shown(count: usize, max: usize) -> usize {
    match count.saturating_sub(max) {
        0 | 1 => count,
        _ => max,
    }
}

/// Joins the first items of a list by commas, and states how many more there are.
pub(crate) fn joined(items: impl ExactSizeIterator<Item = String>, max: usize) -> String {
    let shown = shown(items.len(), max);
    let more = items.len() - shown;
    let mut text: Vec<String> = items.take(shown).collect();
    if more > 0 {
        text.push(format!("and {more} more"));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_item_is_never_left_out() {
        let list = |count: usize| joined((0..count).map(|item| item.to_string()), 2);
        assert_eq!(list(0), "");
        assert_eq!(list(2), "0, 1");
        assert_eq!(list(3), "0, 1, 2");
        assert_eq!(list(4), "0, 1, and 2 more");
        assert_eq!((shown(11, 10), shown(12, 10)), (11, 10));
    }
}
