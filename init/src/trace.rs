//! What was tried and why it failed: the memory behind the failure screen and
//! `/run/bellwether/trace.json`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::json::Json;

use crate::log::Millis;

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

/// Why something that a server has cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In words.
    pub why: String,
    /// Asking again would change nothing.
    pub last: bool,
}

impl Refusal {
    /// One that may be gone the next time.
    pub fn now(why: impl ToString) -> Self {
        Self { why: why.to_string(), last: false }
    }

    /// One that stays.
    pub fn last(why: impl ToString) -> Self {
        Self { why: why.to_string(), last: true }
    }
}

/// What happened and when, for the record of a boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    steps: Vec<(&'static str, Millis)>,
    tried: Reasons,
}

/// A boot that is tried again for days keeps the record of its latest tries.
const MAX_STEPS: usize = 256;

impl Trace {
    /// A step begins, so long after the start of PID 1.
    pub fn step(&mut self, name: &'static str, at: Millis) {
        if self.steps.len() >= MAX_STEPS {
            self.steps.remove(0);
        }
        self.steps.push((name, at));
    }

    /// Something did not do.
    pub fn tried(&mut self, what: &str, why: &str) {
        self.tried.note(what, why);
    }

    /// The step that is being done.
    #[must_use]
    pub fn latest(&self) -> &'static str {
        self.steps.last().map_or("", |(name, _)| *name)
    }

    /// Everything that did not do so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<Tried> {
        self.tried.list.clone()
    }

    /// The record as JSON; `failure` is how the boot ended, if it did.
    #[must_use]
    pub fn to_json(&self, elapsed: Millis, failure: Option<&Failure>) -> String {
        let mut out = Json::new();
        out.object().key("elapsed_ms").number(elapsed.0);
        out.key("steps").array();
        for (name, at) in &self.steps {
            out.object().key("step").string(name).key("at_ms").number(at.0).end_object();
        }
        out.end_array();
        out.key("tried");
        list(&mut out, &self.tried.list);
        if let Some(failure) = failure {
            out.key("failed").object().key("step").string(&failure.step).key("tried");
            list(&mut out, &failure.tried);
            out.key("remedy").string(&failure.remedy).end_object();
        }
        out.end_object();
        out.finish()
    }
}

fn list(out: &mut Json, tried: &[Tried]) {
    out.array();
    for one in tried {
        out.object().key("what").string(&one.what).key("why").string(&one.why).end_object();
    }
    out.end_array();
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
    fn the_record_names_steps_tries_and_the_end() {
        let mut trace = Trace::default();
        trace.step("network", Millis(12));
        trace.tried("10.0.0.1", "said \"no\"");
        let failure = Failure::new("find the root", "sr0", "no medium");
        assert_eq!(
            trace.to_json(Millis(90), Some(&failure)),
            r#"{"elapsed_ms":90,"steps":[{"step":"network","at_ms":12}],"tried":[{"what":"10.0.0.1","why":"said \"no\""}],"failed":{"step":"find the root","tried":[{"what":"sr0","why":"no medium"}],"remedy":""}}"#
        );
    }

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
