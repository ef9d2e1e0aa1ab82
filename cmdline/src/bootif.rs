//! `BOOTIF=`: the address of the link that the firmware booted from.
//!
//! pxelinux writes `01-52-54-00-12-34-56`, the ARP hardware type first; iPXE
//! scripts write `52:54:00:12:34:56`, often without the type; others use upper
//! case or no separators. The type is dropped only when there is one octet too
//! many, so that an address that begins with 01 survives.

use crate::plan::Mac;

/// Reads an Ethernet address in any of those spellings.
#[must_use]
pub fn parse(text: &str) -> Option<Mac> {
    let mut octets = [0u8; 8];
    let mut count = 0;
    let mut push = |piece: &str| {
        let byte = u8::from_str_radix(piece, 16).ok().filter(|_| !piece.starts_with('+'))?;
        *octets.get_mut(count)? = byte;
        count += 1;
        Some(())
    };
    if text.contains(['-', ':', '.']) {
        for piece in text.split(['-', ':', '.']) {
            if piece.is_empty() || piece.len() > 2 {
                return None;
            }
            push(piece)?;
        }
    } else {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at_checked(2)?;
            push(piece)?;
            rest = left;
        }
    }
    let address = match count {
        6 => octets.get(..6)?,
        7 => octets.get(1..7)?,
        _ => return None,
    };
    let mac = Mac(address.try_into().ok()?);
    // All zeroes or a group bit is no station's address.
    (mac.0 != [0; 6] && mac.0[0] & 1 == 0).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        for text in [
            "01-52-54-00-12-34-ab",
            "01-52-54-00-12-34-AB",
            "52-54-00-12-34-ab",
            "52:54:00:12:34:ab",
            "01:52:54:00:12:34:ab",
            "52:54:0:12:34:AB",
            "52540012 34ab".replace(' ', "").as_str(),
            "0152540012 34ab".replace(' ', "").as_str(),
        ] {
            assert_eq!(parse(text), Some(mac), "{text}");
        }
        // Six octets that begin with the type byte of another hardware.
        assert_eq!(parse("06-00-00-00-00-01"), Some(Mac([6, 0, 0, 0, 0, 1])));
        for text in [
            "",
            "01",
            "01-52-54-00-12-34",
            "52:54:00:12:34:zz",
            "${net0/mac}",
            "52::54",
            "+1+1+1+1+1+2",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn anything(text in "\\PC{0,40}") { let _ = parse(&text); }

        #[test]
        fn round_trip(bytes: [u8; 6], dash: bool, upper: bool, kind: bool) {
            let mut bytes = bytes;
            bytes[0] = bytes[0] & 0xfe | 2;
            let mut text = if kind { "01".to_string() } else { String::new() };
            for b in bytes {
                if !text.is_empty() { text.push(if dash { '-' } else { ':' }); }
                text.push_str(&format!("{b:02x}"));
            }
            if upper { text = text.to_uppercase(); }
            prop_assert_eq!(parse(&text), Some(Mac(bytes)));
        }
    }
}
