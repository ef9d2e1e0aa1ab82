//! A small writer of JSON (RFC 8259), for all that the programs say in it: control
//! characters are always escaped, since a terminal may show the text.
//!
//! Passwords are left out, see [`crate::secrets`]. Writes commas, quotes and escapes; that keys and values alternate is the
//! caller's business. No reader, no pretty printing beyond one line per call.

use alloc::string::{String, ToString};

use crate::secrets::{MASK, is_secret, masked};

/// A document being written.
#[derive(Debug, Clone, Default)]
pub struct Json {
    out: String,
    /// The next item needs a comma before it.
    comma: bool,
}

impl Json {
    /// An empty document.
    #[must_use]
    pub fn new() -> Self {
        Json::default()
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    fn item(&mut self) {
        if self.comma {
            self.out.push(',');
        }
        self.comma = true;
    }

    #[inline(never)]
    fn open(&mut self, bracket: char) -> &mut Self {
        self.item();
        self.out.push(bracket);
        self.comma = false;
        self
    }

    #[inline(never)]
    fn close(&mut self, bracket: char) -> &mut Self {
        self.out.push(bracket);
        self.comma = true;
        self
    }

    /// `{`
    pub fn object(&mut self) -> &mut Self {
        self.open('{')
    }

    /// `}`
    pub fn end_object(&mut self) -> &mut Self {
        self.close('}')
    }

    /// `[`
    pub fn array(&mut self) -> &mut Self {
        self.open('[')
    }

    /// `]`
    pub fn end_array(&mut self) -> &mut Self {
        self.close(']')
    }

    /// The key of the value that follows.
    #[inline(never)]
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.item();
        self.quoted(key);
        self.out.push(':');
        self.comma = false;
        self
    }

    /// A string, without the passwords in it.
    #[inline(never)]
    pub fn string(&mut self, text: &str) -> &mut Self {
        self.item();
        self.quoted(&masked(text));
        self
    }

    /// A number.
    #[inline(never)]
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.item();
        self.out.push_str(&number.to_string());
        self
    }

    /// `true` or `false`.
    #[inline(never)]
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.item();
        self.out.push_str(if value { "true" } else { "false" });
        self
    }

    /// `null`
    #[inline(never)]
    pub fn null(&mut self) -> &mut Self {
        self.item();
        self.out.push_str("null");
        self
    }

    /// An array of strings.
    pub fn strings<T: AsRef<str>>(&mut self, items: &[T]) -> &mut Self {
        self.array();
        for item in items {
            self.string(item.as_ref());
        }
        self.end_array()
    }

    /// A string or `null`.
    #[inline(never)]
    pub fn maybe(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.string(text),
            None => self.null(),
        }
    }

    /// A key and its string, which is left out when the key is that of a password.
    #[inline(never)]
    pub fn field(&mut self, key: &str, text: &str) -> &mut Self {
        self.key(key).string(if is_secret(key) { MASK } else { text })
    }

    /// A key and `true` or `false`.
    #[inline(never)]
    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key).bool(value)
    }

    /// A key and its number.
    #[inline(never)]
    pub fn count(&mut self, key: &str, number: u64) -> &mut Self {
        self.key(key).number(number)
    }

    /// A key and a string or `null`.
    #[inline(never)]
    pub fn maybe_field(&mut self, key: &str, text: Option<&str>) -> &mut Self {
        self.key(key).maybe(text)
    }

    /// A key and an array of strings.
    #[inline(never)]
    pub fn list(&mut self, key: &str, items: &[String]) -> &mut Self {
        self.key(key).strings(items)
    }

    /// A value that is JSON already.
    pub fn raw(&mut self, json: &str) -> &mut Self {
        self.item();
        self.out.push_str(json);
        self
    }

    /// Starts a new line; between items only.
    #[inline(never)]
    pub fn newline(&mut self) -> &mut Self {
        if self.comma {
            self.out.push(',');
            self.comma = false;
        }
        self.out.push('\n');
        self
    }

    #[inline(never)]
    fn quoted(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                c if c.is_control() => {
                    let hex = |n: u32| char::from_digit(n & 15, 16).unwrap_or('0');
                    self.out.push_str("\\u00");
                    self.out.push(hex(c as u32 >> 4));
                    self.out.push(hex(c as u32));
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document() {
        let mut json = Json::new();
        json.object().key("a").number(1).key("b").array().string("x\"y\\\n\u{1}ä").null();
        json.object().end_object().bool(true).end_array().key("c").strings(&["p", "q"]);
        json.key("d").maybe(None).end_object();
        assert_eq!(
            json.finish(),
            r#"{"a":1,"b":["x\"y\\\n\u0001ä",null,{},true],"c":["p","q"],"d":null}"#
        );
    }

    proptest! {
        #[test]
        fn strings_hold_nothing_that_json_forbids(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let mut json = Json::new();
            json.string(&text);
            let out = json.finish();
            prop_assert!(!out.chars().any(|c| (c as u32) < 0x20));
            // Undo the escapes again.
            let mut back = String::new();
            let mut chars = out[1..out.len() - 1].chars();
            while let Some(c) = chars.next() {
                if c != '\\' { prop_assert!(c != '"'); back.push(c); continue }
                match chars.next().unwrap() {
                    'n' => back.push('\n'), 'r' => back.push('\r'), 't' => back.push('\t'),
                    'u' => {
                        let hex: String = chars.by_ref().take(4).collect();
                        back.push(char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap());
                    }
                    c => back.push(c),
                }
            }
            prop_assert_eq!(back, text);
        }
    }
}
