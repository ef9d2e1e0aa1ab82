//! Why something did not work, and what to do.

use alloc::string::{String, ToString};
use core::fmt;

/// A failure with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// As the end of a sentence that begins with what failed.
    pub why: String,
    /// What to do; may be empty.
    pub remedy: String,
}

/// Texts of a program's output, what they mean, and what to do.
pub(crate) type Meaning = (&'static [&'static str], &'static str, &'static str);

impl Trouble {
    /// From both texts.
    #[must_use]
    pub fn new(why: &str, remedy: &str) -> Self {
        Self { why: why.to_string(), remedy: remedy.to_string() }
    }

    /// What the first row says that has a text of this line.
    pub(crate) fn of_line(rows: &[Meaning], line: &str) -> Option<Self> {
        let has = |row: &&Meaning| row.0.iter().any(|text| line.contains(text));
        rows.iter().find(has).map(|(_, why, remedy)| Self::new(why, remedy))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
