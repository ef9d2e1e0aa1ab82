//! What was tried and why it failed: the memory behind the failure screen and
//! `/run/bellwether/trace.json`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// What: a device, a server, an image.
    pub what: String,
    /// Why it did not do.
    pub why: String,
}

/// A step that failed, with everything it tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step, as a person would call it: `find the live medium`.
    pub step: String,
    /// What was tried, in order.
    pub tried: Vec<Tried>,
    /// What to change; empty when the reasons say it.
    pub remedy: String,
}

impl Failure {
    /// A step that failed for one reason.
    pub fn new(step: &str, what: &str, why: impl ToString) -> Self {
        let tried = Vec::from([Tried { what: what.to_string(), why: why.to_string() }]);
        Self { step: step.to_string(), tried, remedy: String::new() }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn remedy(mut self, remedy: &str) -> Self {
        self.remedy = remedy.to_string();
        self
    }
}

/// Reasons collected over several rounds: a thing's latest reason replaces its
/// earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reasons {
    list: Vec<Tried>,
}

/// More than this many candidates are not listed one by one.
const MAX_REASONS: usize = 64;

impl Reasons {
    /// Notes why `what` did not do. Returns whether that is news.
    pub fn note(&mut self, what: &str, why: &str) -> bool {
        if let Some(known) = self.list.iter_mut().find(|tried| tried.what == what) {
            if known.why == why {
                return false;
            }
            known.why = why.to_string();
            return true;
        }
        if self.list.len() < MAX_REASONS {
            self.list.push(Tried { what: what.to_string(), why: why.to_string() });
        }
        true
    }

    /// Everything noted, in the order of first mention.
    #[must_use]
    pub fn into_list(self) -> Vec<Tried> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_reason_counts() {
        let mut reasons = Reasons::default();
        assert!(reasons.note("10.0.0.1", "no route"));
        assert!(!reasons.note("10.0.0.1", "no route"));
        assert!(reasons.note("10.0.0.1", "refused"));
        let list = reasons.into_list();
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].why, "refused");
    }
}
