//! From a line to its plan: the dialects that this build reads, and the steps between.

use alloc::vec::Vec;

use crate::context::Context;
use crate::plan::{BootPlan, Dialect, Fate};
use crate::table::{Draft, Grammar};
#[cfg(feature = "all")]
use crate::{alpine, archiso, knoppix, ltsp, slax, stage1, tiny_core};
use crate::{base, bw, casper, detect, dracut, kernel, live_boot, own, source, token};

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
    parse_with(line, context, GRAMMARS)
}

/// The same for a build that reads these dialects. The plan of a line in another one
/// means nothing: `needs` names that dialect, and `/init` refuses the plan.
#[inline]
pub(crate) fn parse_with(
    line: &str,
    context: &Context<'_>,
    grammars: &'static [&'static Grammar],
) -> BootPlan {
    let mut own = token::split(line);
    let mut words = token::Line { open_quote: own.open_quote, cut: own.cut, ..Default::default() };
    let named = |dialect| grammars.iter().copied().find(|grammar| grammar.dialect == dialect);
    let mut built_in = None;
    for defaults in context.defaults {
        let split = token::split(defaults);
        built_in = built_in.or_else(|| detect::detect(&split.words, None));
        words.words.extend(split.words);
        words.init_args.extend(split.init_args);
    }
    let before_dashes = own.words.len();
    own.words.append(&mut own.init_args);
    let forced = own
        .words
        .iter()
        .chain(&words.words)
        .rev()
        .find(|t| t.name == "bw.dialect")
        .and_then(|t| t.value)
        .unwrap_or_default();
    let dialect = detect::named(forced)
        .or_else(|| detect::detect(&own.words, built_in.and_then(named)))
        .or(built_in)
        .unwrap_or(Dialect::Bellwether);
    let grammar: &'static Grammar = named(dialect).unwrap_or(&bw::GRAMMAR);
    // The scripts of live systems read every word of the line, also those behind `--`.
    // Words that mean nothing to them are init's alone.
    for token in own.words.split_off(before_dashes) {
        let list = if grammar.reads(&token) { &mut own.words } else { &mut own.init_args };
        list.push(token);
    }
    // Of these the first of several wins: the line's stand before those that are built in.
    let is_p2v = |token: &token::Token<'_>| {
        cfg!(feature = "p2v")
            && (token.name.starts_with("p2v.") || token.name.starts_with("bw.p2v"))
    };
    let (mut first, own_words): (Vec<_>, Vec<_>) = own.words.into_iter().partition(is_p2v);
    if grammar.first_wins {
        first.extend(own_words);
        first.extend(words.words);
    } else {
        first.extend(words.words);
        first.extend(own_words);
    }
    words.words = first;
    words.words.truncate(token::MAX_WORDS);
    words.init_args.extend(own.init_args);
    let (open_quote, cut) = (words.open_quote, words.cut);
    let quoted = words
        .words
        .iter()
        .find(|t| {
            // Clonezilla's own reader takes quotes.
            t.quoted_blank && !t.name.starts_with("ocs_")
        })
        .map(token::Token::text);

    let mut draft = Draft::new(context, grammars, grammar, words);
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
    base::unfilled(&mut draft);
    draft.mark(Fate::Used, |t| {
        t.value.and_then(detect::named) == Some(dialect) && matches!(t.name, "boot" | "bw.dialect")
    });
    let mut plan = base::plan(&mut draft);
    (grammar.build)(&mut draft, &mut plan);
    own::apply(&mut draft, &mut plan);
    source::check(&mut draft, &mut plan);
    #[cfg(feature = "explain")]
    crate::oddities::check(&mut draft, &plan);
    #[cfg(feature = "all")]
    base::check_points(&mut draft, &plan);
    plan.words = draft.account();
    #[cfg(feature = "all")]
    if draft.refused {
        draft.warnings.truncate(1);
    }
    if grammar.dialect == dialect {
        plan.warnings = draft.warnings;
    }
    plan.dialect = dialect;
    plan
}
