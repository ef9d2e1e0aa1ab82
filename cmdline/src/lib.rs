//! Kernel command lines of every live-boot dialect, turned into one [`BootPlan`].
//!
//! The only crate that reads the command line. Pure: it takes text and returns
//! data, does no I/O, and never panics on any input.
//!
//! A line goes [`token`] → `detect` → the dialect's grammar (a table of words and a
//! function that builds the plan) → our own `bw.` words → checks that need the whole
//! plan → an account of what became of each word. [`parse()`] cannot fail: a line that
//! cannot work gives a plan with fatal warnings ([`BootPlan::can_work`]), because the
//! one who has to show what is wrong is the one who runs the plan.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

#[cfg(feature = "all")]
mod alpine;
#[cfg(feature = "all")]
mod archiso;
pub mod baked;
mod base;
pub mod bootif;
mod bw;
mod casper;
mod context;
mod detect;
#[cfg(feature = "all")]
pub mod docs;
mod dracut;
#[cfg(feature = "all")]
mod families;
#[cfg(feature = "all")]
mod hints;
pub mod ip;
pub mod json;
mod kernel;
mod kernel_words;
#[cfg(feature = "all")]
mod knoppix;
mod live_boot;
#[cfg(feature = "all")]
mod ltsp;
pub mod needs;
mod net;
pub mod nfsroot;
#[cfg(feature = "explain")]
mod oddities;
mod own;
#[cfg(feature = "p2v")]
mod p2v;
mod parse;
pub mod pattern;
pub mod pins;
pub mod plan;
pub mod plan_json;
pub mod render;
pub mod secrets;
#[cfg(feature = "all")]
mod slax;
mod source;
#[cfg(feature = "all")]
mod stage1;
mod table;
#[cfg(test)]
#[cfg(feature = "all")]
mod tests;
pub mod text;
#[cfg(feature = "all")]
mod tiny_core;
pub mod token;
pub mod value;

pub use context::Context;
pub use parse::parse;
pub use plan::BootPlan;
pub use source::{NO_ROOT, is_network, nbd_of_root_path};
pub use table::near;

/// Runs everything once on arbitrary bytes; for fuzzers.
///
/// # Panics
/// When a promise of this crate does not hold, so that the fuzzer sees it.
#[cfg(feature = "all")]
pub fn fuzz(data: &[u8]) {
    let line = alloc::string::String::from_utf8_lossy(data);
    let plan = parse(&line, &Context::default());
    assert!(plan.words.len() <= token::MAX_WORDS);
    assert!(plan.warnings.len() <= table::MAX_WARNINGS);
    let written = plan.to_json().len() + plan.to_text().len() + plan.warnings_text().len();
    let words = plan.words_text(docs::describe).len();
    // A line is said a few times over at most, never multiplied.
    assert!(written + words <= 64 * (line.len() + 4096), "{} bytes", written + words);
    let shown = secrets::masked_line(&line);
    assert_eq!(secrets::masked_line(&shown), shown, "what is masked is masked once");
    let _ = secrets::restored(&shown, &line);
    for text in [line.as_ref(), line.split_once('=').map_or("", |(_, value)| value)] {
        let _ = (bootif::parse(text), ip::slax(text), ip::live_boot(text));
        let _ = (ip::parse(text, ip::Form::Kernel), ip::parse(text, ip::Form::Dracut));
        let _ = (nfsroot::parse(text), nfsroot::dracut(text), nfsroot::from_url(text));
        let _ = (value::url(text).is_ok(), value::device(text), value::bytes(text, 1));
    }
}
