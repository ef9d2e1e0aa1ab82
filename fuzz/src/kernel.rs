//! What the kernel tells us, and what our own image carries.

use cmdline::pattern::matches;
use coldplug::index::{Index, layout};

/// An index whose length and checksum are right, so that what is wrong lies deeper;
/// then everything in it is looked at, and the strings in it are looked up.
pub fn module_index(data: &[u8]) {
    let _ = Index::parse(data).map_err(|error| error.to_string());
    let mut bytes = layout::MAGIC.to_vec();
    bytes.extend_from_slice(&layout::VERSION.to_le_bytes());
    bytes.resize(layout::CHECKSUM_AT, 0);
    bytes.resize(layout::SECTIONS_AT, 0);
    bytes.extend_from_slice(data.get(layout::SECTIONS_AT..).unwrap_or_default());
    let length = u32::try_from(bytes.len()).expect("inputs are short");
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    let sum = layout::checksum(&bytes[layout::SECTIONS_AT..]);
    bytes[layout::CHECKSUM_AT..layout::SECTIONS_AT].copy_from_slice(&sum.to_le_bytes());
    let index = match Index::parse(&bytes) {
        Ok(index) => index,
        Err(error) => return drop(error.to_string()),
    };
    for id in index.ids() {
        let module = index.module(id);
        for other in module.deps().chain(module.soft_pre()).chain(module.soft_post()) {
            assert!(other.index() < index.len(), "an id leads out of the index");
        }
        let _ = (module.path(), module.options(), module.class(), module.compression());
        let _ = (module.blacklisted(), index.by_name(module.name()));
    }
    // Names to ask for, taken from the input itself: those have a chance to be found.
    let text = String::from_utf8_lossy(data);
    for name in text.split('\0').filter(|name| !name.is_empty()).take(16) {
        index.for_request(name, &mut |id| assert!(id.index() < index.len()));
        let _ = index.is_builtin(name);
    }
}

/// A pattern of the line, then a line with the name that it is asked about.
pub fn bundle_pattern(data: &[u8]) {
    let input = String::from_utf8_lossy(data);
    let (pattern, name) = input.split_once('\n').unwrap_or((&input, ""));
    let found = matches(pattern, name);
    // Without an end to stand at, more text around a find takes nothing away.
    if found && !pattern.contains(['^', '$']) {
        assert!(matches(pattern, &format!("x{name}x")), "found only without neighbours");
    }
    // A part of the name, taken as it is, is in it.
    let literal: String = name
        .chars()
        .filter(|letter| !matches!(letter, '|' | ','))
        .flat_map(|letter| ['\\', letter])
        .collect();
    // A backslash takes one byte, not one letter.
    if literal.is_ascii() && (1..=60).contains(&literal.len()) {
        let name = name.replace(['|', ','], "");
        assert!(matches(&literal, &name), "{name:?} is not found by {literal:?}");
        assert!(matches(&format!("^{literal}$"), &name), "{name:?} is not all of itself");
        let joined = format!("{pattern}|{literal}");
        assert!(matches(&joined, &name), "an alternative hides another");
    }
}

/// One message of the kernel's uevent socket.
pub fn uevent(data: &[u8]) {
    if let Some(event) = coldplug::uevent::Uevent::parse(data) {
        assert!(!event.action.is_empty() && event.devpath.starts_with('/'));
    }
}

/// One datagram of a netlink socket.
pub fn netlink(data: &[u8]) {
    let _ = sys::netlink::parse_news(data);
    for message in sys::netlink::messages(data) {
        let payload = message.payload;
        let _ = sys::netlink::parse_route(payload);
        for (_, value) in sys::netlink::attributes(payload) {
            let _ = sys::netlink::attributes(value).count();
        }
    }
}
