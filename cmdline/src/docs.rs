//! The documentation of the words, generated from the tables that the dialects work
//! by. For host tools: /init refers to nothing in here, and the linker leaves it out.
//!
//! `CASES` are command lines with what their plans must say; the tests hold the
//! dialects to them, and the tables name one for each word.

use alloc::string::String;
use alloc::vec::Vec;

use crate::parse::GRAMMARS;
use crate::plan::{BootPlan, Dialect, Fate};
use crate::table::{Act, Grammar, Shape, Spec, Words, covers};
use crate::{
    alpine, archiso, base, casper, dracut, kernel, knoppix, live_boot, ltsp, net, own, slax,
    stage1, tiny_core, token,
};

/// A table with what stands around it.
struct Table {
    title: &'static str,
    intro: &'static str,
    /// The dialect whose own words these are; `None` for shared ones.
    dialect: Option<Dialect>,
    words: &'static Words,
    docs: &'static [&'static str],
}

/// A table a row: its title, its dialect, its words and what they do, and a sentence.
macro_rules! tables {
    ($($(#[$when:meta])? $title:literal, $dialect:expr, $words:path, $docs:path => $intro:literal;)*) => {
        [$(
            $(#[$when])?
            Table { title: $title, intro: $intro, dialect: $dialect, words: &$words, docs: $docs },
        )*]
    };
}

fn tables_of() -> [Table; 15 + cfg!(feature = "p2v") as usize] {
    tables! {
        "Bellwether's own words", Some(Dialect::Bellwether), own::OWN, own::OWN_DOCS =>
            "In every dialect, and stronger than what the dialect says.";
        #[cfg(feature = "p2v")]
        "Sending this machine's disks", Some(Dialect::Bellwether), own::P2V, crate::p2v::P2V_DOCS =>
            "virt-p2v's words and our own, in every dialect; the first of several equal words wins.";
        "Shared words", None, base::BASE, base::BASE_DOCS =>
            "The kernel's and initramfs-tools' words, in every dialect that has no other meaning for them.";
        "Network", None, net::NET, net::NET_DOCS =>
            "In every dialect that has no other meaning for them.";
        "kernel", Some(Dialect::Kernel), kernel::KERNEL, kernel::KERNEL_DOCS =>
            "`root=/dev/nfs nfsroot=… ip=…`, `root=DEVICE`, and what initramfs-tools and cloud-initramfs-tools add.";
        "genkernel", Some(Dialect::Kernel), kernel::GENKERNEL, kernel::GENKERNEL_DOCS =>
            "Gentoo's own initramfs, on an installed system: the kernel's words, and these.";
        "casper", Some(Dialect::Casper), casper::CASPER, casper::CASPER_DOCS =>
            "Ubuntu and its flavours: `boot=casper`.";
        "live-boot", Some(Dialect::LiveBoot), live_boot::LIVE, live_boot::LIVE_DOCS =>
            "Debian live and its derivatives: `boot=live`.";
        "dracut", Some(Dialect::Dracut), dracut::DRACUT, dracut::DRACUT_DOCS =>
            "Fedora, openSUSE and others: `root=live:…`.";
        "archiso", Some(Dialect::Archiso), archiso::ARCHISO, archiso::ARCHISO_DOCS =>
            "Arch Linux and its derivatives: `archisobasedir=…`.";
        "stage1", Some(Dialect::Stage1), stage1::STAGE1, stage1::STAGE1_DOCS =>
            "Mandriva, Mageia, IGGI: `automatic=…`, `rescue`, `kamethod`.";
        "slax", Some(Dialect::Slax), slax::SLAX, slax::SLAX_DOCS =>
            "Slax and linux-live: `from=…`.";
        "ltsp", Some(Dialect::Ltsp), ltsp::LTSP, ltsp::LTSP_DOCS =>
            "LTSP image chains: `ltsp.image=…`.";
        "alpine", Some(Dialect::Alpine), alpine::ALPINE, alpine::ALPINE_DOCS =>
            "Alpine's mkinitfs.";
        "tiny-core", Some(Dialect::TinyCore), tiny_core::TINY_CORE, tiny_core::TINY_CORE_DOCS =>
            "Tiny Core.";
        "knoppix", Some(Dialect::Knoppix), knoppix::KNOPPIX, knoppix::KNOPPIX_DOCS =>
            "Knoppix.";
    }
}

/// A command line and what its plan must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The line.
    pub line: &'static str,
    /// Pieces of [`BootPlan::to_text`] and [`BootPlan::warnings_text`].
    pub expected: Vec<&'static str>,
}

/// The cases: a line at the margin, its expected pieces indented below it, `#` for
/// remarks.
const CASES: &str = include_str!("cases.txt");

/// Every case.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CASES.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(piece) => {
                if let Some(case) = cases.last_mut() {
                    case.expected.push(piece.trim());
                }
            }
            None => cases.push(Case { line, expected: Vec::new() }),
        }
    }
    cases
}

/// What a word of a plan means, in one line.
#[must_use]
pub fn describe(plan: &BootPlan, word: &str) -> Option<&'static str> {
    let name = word.split_once('=').map_or(word, |(name, _)| name);
    let grammar = GRAMMARS.iter().find(|g| g.dialect == plan.dialect)?;
    for words in grammar.tables {
        if let Some(at) = words.iter().position(|spec| covers(spec.name, name)) {
            let tables = tables_of();
            let table = tables.iter().find(|t| core::ptr::eq(t.words, *words))?;
            return table.docs.get(at).copied();
        }
    }
    None
}

fn shape(spec: &Spec) -> &'static str {
    match spec.shape {
        Shape::Flag => "",
        Shape::Switch => "`[=0\\|1]`",
        Shape::Text => "`=…`",
        Shape::OptText => "`[=…]`",
        Shape::Number => "`=N`",
        Shape::Size => "`=SIZE`",
    }
}

fn effect(spec: &Spec) -> &'static str {
    match spec.act {
        Act::Keep | Act::Local | Act::Soft => "yes",
        Act::Setting => "set for the live system",
        Act::Pass => "passed on",
        Act::Idle => "no",
    }
}

/// A piece of a command line that a machine of the laboratory boots with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Booted {
    scenario: String,
    dialect: Dialect,
    line: String,
}

/// The lines in the source of scenarios: what stands in quotes behind a scenario's
/// name, and the constants that are named there.
fn booted(source: &str) -> Vec<Booted> {
    // Neither tells where a text ends.
    let source = source.replace("\\\"", "").replace("'\"'", "");
    let mut parts = source.split("scenario(\"");
    let constants: Vec<(&str, &str)> = parts
        .next()
        .into_iter()
        .flat_map(|head| head.split("const ").skip(1))
        .filter_map(|item| {
            let (name, rest) = item.split_once(": &str")?;
            rest.split('"').nth(1).map(|value| (name, value))
        })
        .collect();
    let mut lines = Vec::new();
    for part in parts {
        let Some((scenario, story)) = part.split_once('"') else { continue };
        let named = constants.iter().filter(|(name, _)| story.contains(name));
        let texts = story.split('"').skip(1).step_by(2).chain(named.map(|(_, value)| *value));
        for text in texts {
            // A line of Rust that ends in a backslash goes on behind the next one's blanks.
            let line = text.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
            let dialect = crate::parse::parse(&line, &crate::context::Context::default()).dialect;
            lines.push(Booted { scenario: String::from(scenario), dialect, line });
        }
    }
    lines
}

/// The first scenario that boots with the word, in its dialect.
fn scenario_of<'s>(booted: &'s [Booted], dialect: Option<Dialect>, name: &str) -> Option<&'s str> {
    let has = |line: &str| token::split(line).words.iter().any(|token| covers(name, token.name));
    let own = |found: Dialect| {
        dialect.is_none_or(|dialect| dialect == found || dialect == Dialect::Bellwether)
    };
    booted
        .iter()
        .find(|line| own(line.dialect) && has(&line.line))
        .map(|line| line.scenario.as_str())
}

/// Markdown: a section for each table, and the words that are only passed on.
/// `scenarios` are the source files of the laboratory's scenarios, which boot with some
/// of the words.
#[must_use]
pub fn tables(scenarios: &[String]) -> String {
    let cases = cases();
    let booted: Vec<Booted> = scenarios.iter().flat_map(|source| booted(source)).collect();
    let mut out = String::new();
    for table in tables_of() {
        out.push_str(&["## ", table.title, "\n\n", table.intro, "\n\n"].concat());
        out.push_str("| word | value | acts | what it does | held to by |\n| --- | --- | --- | --- | --- |\n");
        for (spec, doc) in table.words.iter().zip(table.docs) {
            let example = example(&cases, table.dialect, spec.name).unwrap_or_default();
            let mut example = if example.is_empty() {
                String::new()
            } else {
                ["`", &cell(example), "`"].concat()
            };
            if let Some(scenario) = scenario_of(&booted, table.dialect, spec.name) {
                let separator = if example.is_empty() { "" } else { "; " };
                example.push_str(&[separator, "boots in *", scenario, "*"].concat());
            }
            let row = [
                "| `",
                spec.name,
                "` | ",
                shape(&spec),
                " | ",
                effect(&spec),
                " | ",
                &cell(doc),
                " | ",
                &example,
                " |\n",
            ];
            out.push_str(&row.concat());
        }
        out.push('\n');
        let grammar = table.dialect.and_then(|d| GRAMMARS.iter().find(|g| g.dialect == d));
        if let Some(grammar) = grammar.filter(|g| !g.pass.is_empty()) {
            passed(&mut out, grammar);
        }
    }
    out
}

fn passed(out: &mut String, grammar: &Grammar) {
    let words: Vec<String> =
        grammar.pass.split_ascii_whitespace().map(|word| ["`", word, "`"].concat()).collect();
    out.push_str(
        "Passed on to the live system, as `passed_words_are_passed_on` in \
         `cmdline/src/docs.rs` holds them to: ",
    );
    out.push_str(&words.join(", "));
    out.push_str(".\n\n");
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The shortest case of the dialect in which the word shapes the plan.
fn example(cases: &[Case], dialect: Option<Dialect>, name: &str) -> Option<&'static str> {
    // A line that is refused holds to a word only where none is carried out.
    let refused = |case: &Case| case.expected.iter().any(|piece| piece.starts_with("error:"));
    let mut best: Option<&Case> = None;
    for case in cases {
        let line = token::split(case.line);
        if !line.words.iter().any(|token| covers(name, token.name)) {
            continue;
        }
        let plan = crate::parse::parse(case.line, &crate::context::Context::default());
        if dialect.is_some_and(|d| d != plan.dialect && d != Dialect::Bellwether) {
            continue;
        }
        let lives = plan.words.iter().any(|word| {
            let word_name = word.text.split_once('=').map_or(word.text.as_str(), |(n, _)| n);
            covers(name, word_name) && !matches!(word.fate, Fate::Overridden | Fate::Unknown)
        });
        let rank = |case: &Case| (refused(case), case.line.len());
        if lives && best.is_none_or(|b| rank(case) < rank(b)) {
            best = Some(case);
        }
    }
    best.map(|case| case.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, parse};

    #[test]
    fn every_table_is_documented_word_by_word() {
        for table in tables_of() {
            assert_eq!(table.words.iter().count(), table.docs.len(), "{}", table.title);
            for (spec, doc) in table.words.iter().zip(table.docs) {
                assert!(doc.ends_with('.') && doc.len() > 5, "{}: {doc}", spec.name);
            }
        }
        for grammar in GRAMMARS {
            for words in grammar.tables {
                assert!(
                    tables_of().iter().any(|t| core::ptr::eq(t.words, *words)),
                    "{}",
                    grammar.dialect.name()
                );
            }
        }
    }

    #[test]
    fn cases_hold() {
        let cases = cases();
        assert!(cases.len() > 60);
        let mut wrong = Vec::new();
        for case in cases {
            assert!(!case.expected.is_empty(), "nothing is expected of {}", case.line);
            let plan = parse(case.line, &Context::default());
            let text = plan.to_text() + &plan.warnings_text();
            for piece in case.expected {
                let (absent, piece) = piece.strip_prefix('!').map_or((false, piece), |p| (true, p));
                if text.contains(piece) == absent {
                    wrong.push(format!(
                        "{}\n  wants {piece:?} {}\n{text}",
                        case.line,
                        if absent { "absent" } else { "" }
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// A plan without the account of its words.
    fn bare(line: &str) -> String {
        let plan = parse(line, &Context::default());
        let fatal = plan.warnings.iter().any(|w| w.fatal);
        let plan = BootPlan { words: Vec::new(), warnings: Vec::new(), ..plan };
        format!("{fatal} {plan:?}")
    }

    /// Every word that a table says has an effect has one: some case's plan changes
    /// when the word is taken out of the line. Every word without effect is named in
    /// a warning of some case, and every other is passed on in one.
    #[test]
    fn every_word_acts_in_some_case() {
        let cases = cases();
        let mut idle = Vec::new();
        for table in tables_of() {
            for spec in table.words.iter() {
                let acts = cases.iter().any(|case| {
                    let plan = parse(case.line, &Context::default());
                    let own_table =
                        table.dialect.is_none_or(|d| d == plan.dialect || d == Dialect::Bellwether);
                    let line = token::split(case.line);
                    let mine = |name: &str| covers(spec.name, name);
                    if !own_table || !line.words.iter().any(|t| mine(t.name)) {
                        return false;
                    }
                    match spec.act {
                        Act::Keep | Act::Local | Act::Soft | Act::Setting => {
                            let mut rest: Vec<String> = line
                                .words
                                .iter()
                                .filter(|t| !mine(t.name))
                                .map(|t| t.text())
                                .collect();
                            // The dialect stays what it was.
                            if !matches!(spec.name, "bw.dialect" | "boot") {
                                rest.push(format!("bw.dialect={}", plan.dialect.name()));
                            }
                            let refused = plan
                                .warnings
                                .iter()
                                .any(|w| w.fatal && mine(w.word.split('=').next().unwrap_or("")));
                            refused || bare(case.line) != bare(&rest.join(" "))
                        }
                        Act::Idle => plan
                            .warnings
                            .iter()
                            .any(|w| mine(w.word.split('=').next().unwrap_or(""))),
                        Act::Pass => plan.words.iter().any(|word| {
                            mine(word.text.split('=').next().unwrap_or(""))
                                && word.fate == Fate::PassedOn
                        }),
                    }
                });
                if !acts {
                    idle.push(format!("{} of {}", spec.name, table.title));
                }
            }
        }
        assert!(idle.is_empty(), "no case shows what these do: {idle:#?}");
    }

    /// Nothing that a dialect's own initramfs reads is missing here.
    #[test]
    fn every_word_of_the_dialects_is_in_a_table_or_passed_on() {
        let mut dialect = None;
        let (mut count, mut missing) = (0, Vec::new());
        for line in include_str!("reference.txt").lines().filter(|line| !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                dialect = GRAMMARS.iter().find(|grammar| grammar.dialect.name() == name);
                assert!(dialect.is_some(), "{name}");
                continue;
            }
            for word in line.split_ascii_whitespace() {
                let grammar = dialect.unwrap();
                count += 1;
                let known = grammar.find(word).is_some()
                    || crate::table::listed(grammar.pass, word)
                    || crate::table::listed(crate::kernel_words::KERNEL_WORDS, word);
                if !known {
                    missing.push(format!("{word} of {}", grammar.dialect.name()));
                }
            }
        }
        assert!(count > 300, "{count}");
        assert!(missing.is_empty(), "no table knows these: {missing:#?}");
    }

    /// Nothing is said of words that the live system reads, in no dialect.
    #[test]
    fn passed_words_are_passed_on() {
        for grammar in GRAMMARS {
            for word in grammar.pass.split_ascii_whitespace() {
                let word = word.replace('*', "x");
                // The shared tables', with rows of their own.
                if grammar.find(&word).is_some() {
                    continue;
                }
                let line = format!("bw.dialect={} {word}=1", grammar.dialect.name());
                let plan = parse(&line, &Context::default());
                let fate = plan.words.iter().find(|found| found.text.starts_with(&word));
                assert_eq!(fate.map(|word| word.fate), Some(Fate::PassedOn), "{line}");
                assert!(!plan.warnings.iter().any(|w| w.word.starts_with(&word)), "{line}");
            }
        }
    }

    /// No row of the page is without something that it is held to.
    #[test]
    fn every_row_has_a_proof() {
        for line in tables(&[]).lines().filter(|line| line.starts_with("| `")) {
            assert!(!line.ends_with("|  |"), "{line}");
        }
    }

    #[test]
    fn the_tables_are_markdown() {
        let one = r#"scenario("one", |lab| { boot("boot=casper netboot=nfs \
            ip=dhcp") })"#;
        let text = tables(&[String::from(one)]);
        assert!(text.contains("; boots in *one* |"));
        for line in text.lines().filter(|l| l.starts_with('|')) {
            let cells = line.replace("\\|", "").matches('|').count();
            assert_eq!(cells, 6, "{line}");
        }
        assert!(text.contains("| `netboot` |") && text.contains("| `bw.root` |"));
    }

    #[test]
    fn scenarios_tell_which_words_they_boot_with() {
        let booted = booted(
            r#"const LIVE: &str = "boot=live components"; const NOT: &str = "boot=live toram";
            scenario("two", f("boot=live \
              netboot", "said \"x\"", LIVE)) "#,
        );
        let with = |dialect, word| scenario_of(&booted, Some(dialect), word);
        assert_eq!(with(Dialect::LiveBoot, "netboot"), Some("two"));
        assert_eq!(with(Dialect::LiveBoot, "components"), Some("two"));
        assert_eq!(with(Dialect::LiveBoot, "toram"), None);
        assert_eq!(with(Dialect::Casper, "netboot"), None);
    }
}
