//! Kernel command lines of every live-boot dialect, turned into one [`BootPlan`].
//!
//! The only crate that reads the command line. Pure: it takes text and returns
//! data, does no I/O, and never panics on any input.
//!
//! A line goes [`token`] → `detect` → the dialect's grammar (a table of words and a
//! function that builds the plan) → our own `bw.` words → checks that need the whole
//! plan → an account of what became of each word. [`parse`] cannot fail: a line that
//! cannot work gives a plan with fatal warnings ([`BootPlan::can_work`]), because the
//! one who has to show what is wrong is the one who runs the plan.

#![cfg_attr(not(test), no_std)]
extern crate alloc;

#[cfg(feature = "all")]
mod alpine;
#[cfg(feature = "all")]
mod archiso;
mod base;
pub mod bootif;
mod bw;
mod casper;
mod detect;
#[cfg(feature = "all")]
pub mod docs;
mod dracut;
pub mod ip;
pub mod json;
mod kernel;
#[cfg(feature = "all")]
mod knoppix;
mod live_boot;
#[cfg(feature = "all")]
mod ltsp;
mod net;
pub mod nfsroot;
mod own;
pub mod pattern;
pub mod plan;
pub mod plan_json;
pub mod render;
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

pub use plan::BootPlan;
use plan::Dialect;
pub use source::is_network;
use table::{Draft, Grammar};

/// What an image was built with and the machine is, as far as it changes the meaning
/// of words.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Machine name as `uname -m` has it: `x86_64`, `aarch64`.
    pub arch: &'a str,
    /// Words that come before the line's own and are overridden by them: an image's
    /// built-in defaults, dracut's `/etc/cmdline.d`, one string each.
    pub defaults: &'a [&'a str],
    /// UUID that the medium must have (`/conf/uuid.conf` of casper and live-boot); may be empty.
    pub medium_uuid: &'a str,
    /// `layerfs-path` of casper's `/conf/conf.d/default-layer.conf`; may be empty.
    pub layerfs_path: &'a str,
    /// Whether https can be spoken before the root is up.
    pub tls: bool,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Context { arch: "x86_64", defaults: &[], medium_uuid: "", layerfs_path: "", tls: false }
    }
}

/// The dialects that this build reads, in the order of the documentation.
pub(crate) static GRAMMARS: &[&Grammar] = &[
    &kernel::GRAMMAR,
    &casper::GRAMMAR,
    &live_boot::GRAMMAR,
    &dracut::GRAMMAR,
    #[cfg(feature = "all")]
    &archiso::GRAMMAR,
    #[cfg(feature = "all")]
    &stage1::GRAMMAR,
    #[cfg(feature = "all")]
    &slax::GRAMMAR,
    #[cfg(feature = "all")]
    &ltsp::GRAMMAR,
    #[cfg(feature = "all")]
    &alpine::GRAMMAR,
    #[cfg(feature = "all")]
    &tiny_core::GRAMMAR,
    #[cfg(feature = "all")]
    &knoppix::GRAMMAR,
    &bw::GRAMMAR,
];

/// Turns a command line into a plan.
///
/// Never fails and never panics: what is wrong with the line stands in
/// [`BootPlan::warnings`], and the plan is what can be made of the rest.
#[must_use]
pub fn parse(line: &str, context: &Context<'_>) -> BootPlan {
    let own = token::split(line);
    let mut words = token::Line { open_quote: own.open_quote, cut: own.cut, ..Default::default() };
    let mut default_dialect = None;
    for defaults in context.defaults {
        let split = token::split(defaults);
        default_dialect = default_dialect.or_else(|| detect::detect(&split.words));
        words.words.extend(split.words);
        words.init_args.extend(split.init_args);
    }
    let forced = own
        .words
        .iter()
        .chain(&words.words)
        .rev()
        .find(|t| t.name == "bw.dialect")
        .and_then(|t| t.value)
        .unwrap_or_default();
    let dialect = detect::named(forced)
        .or_else(|| detect::detect(&own.words))
        .or(default_dialect)
        .unwrap_or(Dialect::Bellwether);
    let mut grammar: &'static Grammar = &bw::GRAMMAR;
    for candidate in GRAMMARS.iter().copied() {
        if candidate.dialect == dialect {
            grammar = candidate;
        }
    }
    let (mut first, second) =
        if grammar.first_wins { (own.words, words.words) } else { (words.words, own.words) };
    first.extend(second);
    words.words = first;
    words.words.truncate(token::MAX_WORDS);
    words.init_args.extend(own.init_args);
    let (open_quote, cut) = (words.open_quote, words.cut);
    let quoted = words.words.iter().find(|t| t.quoted_blank).map(token::Token::text);

    let mut draft = Draft::new(context, grammar, words);
    if cut {
        draft.warn("", &("the line is longer than 64 KiB or 4096 words and was cut", ""));
    }
    if open_quote {
        draft.warn("", &("a double quote is never closed; it swallows the rest of the line", ""));
    }
    if let Some(word) = quoted.filter(|_| grammar.splits_quotes) {
        draft.warn(
            &word,
            &("holds a quoted blank, which the live system's own scripts split at", ""),
        );
    }
    if !forced.is_empty() && detect::named(forced).is_none() {
        draft.warn_word(
            "bw.dialect",
            forced,
            &("names no dialect and was left out", &Dialect::ALL.map(Dialect::name).join(", ")),
        );
    }
    if grammar.dialect != dialect {
        draft.fatal(
            "",
            &(
                &table::text(&[
                    "is in words of ",
                    dialect.name(),
                    ", which this small /init does not read",
                ]),
                "build the image with --profile net, which carries the full one",
            ),
        );
    }
    base::unfilled(&mut draft);
    draft.mark(plan::Fate::Used, |t| {
        t.value.and_then(detect::named) == Some(dialect) && matches!(t.name, "boot" | "bw.dialect")
    });
    let mut plan = base::plan(&mut draft);
    (grammar.build)(&mut draft, &mut plan);
    own::apply(&mut draft, &mut plan);
    source::check(&mut draft, &mut plan);
    #[cfg(feature = "all")]
    base::check_points(&mut draft, &plan);
    plan.words = draft.account();
    plan.warnings = draft.warnings;
    plan
}

impl BootPlan {
    /// Whether the boot can succeed as far as the line alone tells.
    #[must_use]
    pub fn can_work(&self) -> bool {
        !self.warnings.iter().any(|warning| warning.fatal)
    }
}

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
    for text in [line.as_ref(), line.split_once('=').map_or("", |(_, value)| value)] {
        let _ = (bootif::parse(text), ip::slax(text), ip::live_boot(text));
        let _ = (ip::parse(text, ip::Form::Kernel), ip::parse(text, ip::Form::Dracut));
        let _ = (nfsroot::parse(text), nfsroot::dracut(text), nfsroot::from_url(text));
        let _ = (value::url(text).is_ok(), value::device(text), value::bytes(text, 1));
    }
}
