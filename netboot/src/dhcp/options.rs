//! DHCP options of one message (RFC 2132), split options joined (RFC 3396).

use heapless::Vec;

/// Option codes.
pub mod code {
    #![allow(missing_docs)]
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const ROOT_PATH: u8 = 17;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const STATIC_ROUTES: u8 = 33;
    pub const NIS_DOMAIN: u8 = 40;
    pub const NTP: u8 = 42;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETERS: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    pub const RAPID_COMMIT: u8 = 80;
    pub const SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const TFTP_SERVERS: u8 = 150;
    pub const CLASSLESS_ROUTES_MS: u8 = 249;
}

/// The requested options, most important first: a short answer omits the last ones.
pub const REQUESTED: [u8; 19] = [
    code::SUBNET_MASK,
    // RFC 3442: before the router option.
    code::CLASSLESS_ROUTES,
    code::ROUTER,
    code::ROOT_PATH,
    code::DNS,
    code::MTU,
    code::HOST_NAME,
    code::DOMAIN_NAME,
    code::SEARCH,
    code::NTP,
    code::BROADCAST,
    code::STATIC_ROUTES,
    code::TFTP_SERVER_NAME,
    code::BOOT_FILE,
    code::TFTP_SERVERS,
    code::VENDOR,
    code::NIS_DOMAIN,
    code::LEASE_TIME,
    code::SERVER_ID,
];

/// Bytes of all options of one message: no frame is longer.
const MAX_BYTES: usize = 2048;
/// Different options: 0 and 255 are none.
const MAX_OPTIONS: usize = 254;

/// The options of one message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Option and length of its value, in the order of their first parts.
    items: Vec<(u8, u16), MAX_OPTIONS>,
    /// The values, one behind the other.
    values: Vec<u8, MAX_BYTES>,
}

impl Options {
    /// Adds the options of one area; parts of a split option are joined.
    ///
    /// Reading stops at the end mark or at the first option that does not fit; what
    /// came before it counts. So does it behind 2048 bytes of values.
    pub fn collect(&mut self, area: &[u8]) {
        let mut rest = area;
        while let Some((&option, tail)) = rest.split_first() {
            match option {
                0 => rest = tail,
                255 => return,
                _ => {
                    let Some((&length, tail)) = tail.split_first() else { return };
                    let Some((value, tail)) = tail.split_at_checked(usize::from(length)) else {
                        return;
                    };
                    if self.add(option, value).is_none() {
                        return;
                    }
                    rest = tail;
                }
            }
        }
    }

    /// Adds one option, or a further part of it; nothing where there is no room.
    fn add(&mut self, option: u8, value: &[u8]) -> Option<()> {
        let more = u16::try_from(value.len()).ok()?;
        let end = self.range(option).map(|(_, end)| end);
        self.values.extend_from_slice(value).ok()?;
        let Some(end) = end else { return self.items.push((option, more)).ok() };
        // Byte by byte to its place: split options are rare, and this is the least code.
        for _ in value {
            let last = self.values.pop()?;
            self.values.insert(end, last).ok()?;
        }
        let (_, length) = self.items.iter_mut().find(|(known, _)| *known == option)?;
        *length = length.saturating_add(more);
        Some(())
    }

    /// Where among the values that of an option begins and ends.
    fn range(&self, option: u8) -> Option<(usize, usize)> {
        let mut end = 0usize;
        for (known, length) in &self.items {
            let start = end;
            end = end.saturating_add(usize::from(*length));
            if *known == option {
                return Some((start, end));
            }
        }
        None
    }

    /// The value of an option.
    pub fn get(&self, option: u8) -> Option<&[u8]> {
        let (start, end) = self.range(option)?;
        self.values.get(start..end)
    }

    /// Option 52: bit 0 means that `file` holds options, bit 1 that `sname` does.
    pub fn overload(&self) -> u8 {
        match self.get(code::OVERLOAD) {
            Some([value]) => *value & 3,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    #[test]
    fn split_options_are_joined_and_cut_ones_dropped() {
        let mut options = Options::default();
        options.collect(&[17, 2, b'/', b'a', 0, 0, 3, 4, 10, 0, 0, 1, 17, 1, b'b', 6, 8, 1, 2]);
        assert_eq!(options.get(17), Some(&b"/ab"[..]));
        assert_eq!(options.get(3), Some(&[10, 0, 0, 1][..]));
        assert_eq!(options.get(6), None);
        options.collect(&[255, 6, 1, 1]);
        assert_eq!(options.get(6), None);
        options.collect(&[17]);
        assert_eq!(options.overload(), 0);
    }

    #[test]
    fn values_that_no_frame_holds_are_left_out() {
        let mut options = Options::default();
        let part = [&[43, 255][..], &[7; 255]].concat();
        options
            .collect(&[&[3, 4, 10, 0, 0, 1][..], &part.repeat(9), &[6, 4, 10, 0, 0, 2]].concat());
        assert_eq!(options.get(43).unwrap().len(), 8 * 255);
        assert_eq!((options.get(3), options.get(6)), (Some(&[10, 0, 0, 1][..]), None));
    }

    proptest! {
        #[test]
        fn parts_are_joined_in_their_order(
            parts in proptest::collection::vec((1u8..6, proptest::collection::vec(any::<u8>(), 0..20)), 0..40)
        ) {
            let mut options = Options::default();
            let mut expected = BTreeMap::<u8, alloc::vec::Vec<u8>>::new();
            for (option, value) in &parts {
                options.collect(&[&[*option, value.len() as u8][..], value].concat());
                expected.entry(*option).or_default().extend(value);
            }
            for option in 0..=255 {
                prop_assert_eq!(options.get(option), expected.get(&option).map(|value| &value[..]));
            }
        }
    }
}
