//! What was tried and why it failed: the memory behind the failure screen and
//! `/run/bellwether/trace.json`.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use cmdline::json::Json;
use rustix::io::Errno;
use sys::errno::Shown;
use sys::mount::MountError;

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

/// Why a step could not be done: the object, the operation, the reason and the remedy.
///
/// The object is left out where the caller names it, as the failure screen does. The
/// parts are boxed: functions hand one pointer on, which keeps `/init` small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    object: String,
    operation: &'static str,
    reason: Reason,
    remedy: &'static str,
    last: bool,
}

/// The reason of a [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The kernel's error number.
    Kernel(Errno),
    /// Another reason, in words.
    Said(String),
}

impl From<Errno> for Reason {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Said(text)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::Said(text.to_string())
    }
}

impl From<MountError> for Reason {
    fn from(error: MountError) -> Self {
        if error.log.is_empty() { error.errno.into() } else { error.to_string().into() }
    }
}

impl<R: Into<Reason>> From<R> for Fault {
    fn from(reason: R) -> Self {
        Self::new("", reason)
    }
}

// The `clone` room's traits take plain text.
impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

impl Fault {
    /// An operation that failed, as in "cannot be read"; empty when the reason says it.
    pub fn new(operation: &'static str, reason: impl Into<Reason>) -> Self {
        let reason = reason.into();
        Self(Box::new(Parts { object: String::new(), operation, reason, remedy: "", last: false }))
    }

    /// Turns an error into a fault with an object; for `map_err`.
    pub fn on<R: Into<Reason>>(object: &str) -> impl FnOnce(R) -> Self {
        move |reason| Self::from(reason).of(object)
    }

    /// Turns an error into a fault of an operation; for `map_err`.
    pub fn in_<R: Into<Reason>>(operation: &'static str) -> impl FnOnce(R) -> Self {
        move |reason| Self::new(operation, reason)
    }

    /// The same with the object; an object that is named already follows it.
    #[must_use]
    pub fn of(mut self, object: &str) -> Self {
        if !self.0.object.is_empty() {
            self.0.object.insert_str(0, ": ");
        }
        self.0.object.insert_str(0, object);
        self
    }

    /// Whether the reason is that it is not there.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self.0.reason, Reason::Kernel(errno) if sys::file::is_absent(errno))
    }

    /// The same with what to change.
    #[must_use]
    pub fn remedy(mut self, remedy: &'static str) -> Self {
        self.0.remedy = remedy;
        self
    }

    /// The same, and trying again would change nothing.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.0.last = true;
        self
    }

    /// Whether trying again would change nothing.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.0.last
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { object, operation, reason, remedy, .. } = &*self.0;
        for part in [object.as_str(), operation] {
            if !part.is_empty() {
                f.write_str(part)?;
                f.write_str(": ")?;
            }
        }
        match reason {
            Reason::Kernel(errno) => Shown(*errno).fmt(f)?,
            Reason::Said(text) => f.write_str(text)?,
        }
        if !remedy.is_empty() {
            f.write_str("; ")?;
            f.write_str(remedy)?;
        }
        Ok(())
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
    fn a_fault_says_object_operation_reason_and_remedy() {
        let fault = Fault::new("cannot be read", Errno::IO);
        assert_eq!(fault.to_string(), "cannot be read: input/output error (EIO)");
        let fault = fault.of("/dev/sda").of("partition 2").remedy("check the cable");
        assert_eq!(
            fault.to_string(),
            "partition 2: /dev/sda: cannot be read: input/output error (EIO); check the cable"
        );
        assert!(!fault.is_last() && fault.last().is_last());
        assert_eq!(Fault::from("is no disk").to_string(), "is no disk");
        let silent = Fault::on("/mnt")(MountError { errno: Errno::NODEV, log: String::new() });
        assert_eq!(silent, Fault::on("/mnt")(Errno::NODEV));
        let said = MountError { errno: Errno::INVAL, log: "ext4: bad option".into() };
        assert_eq!(Fault::from(said).to_string(), "ext4: bad option: invalid argument (EINVAL)");
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
