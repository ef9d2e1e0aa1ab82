//! docs/status.md's list of everything that a machine of the laboratory boots, made
//! from the scenarios: their functions' names and comments.

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use qemu_tests::faults::{Fault, TABLE};
use qemu_tests::release::{RELEASES, Seen};
use qemu_tests::{Error, Result, workspace};
use quote::ToTokens as _;
use syn::{Attribute, Expr, Item, Lit, Meta};

use crate::marks::fill;

/// Pages that name scenarios in italics.
const NAMING: &[&str] = &["docs/status.md", "docs/differences.md"];

/// One scenario.
#[derive(Debug)]
struct Scenario {
    name: String,
    shows: String,
    sweep: bool,
}

/// docs/status.md with the scenarios as they are.
///
/// # Errors
/// [`Error::Input`] when a source cannot be parsed, or a page names a scenario that
/// is not there.
pub fn page() -> Result<String> {
    let seen = Seen::open();
    let mut text = String::from("The states of the releases that scenarios have run on:\n\n");
    for state in RELEASES.iter().filter_map(|release| seen.state(release)) {
        text.push_str(&format!("- {state}\n"));
    }
    text.push('\n');
    let mut names = Vec::new();
    for file in sources()? {
        let (about, scenarios) = read(&file)?;
        if scenarios.is_empty() {
            continue;
        }
        text.push_str(&format!(
            "### {about}\n\n| scenario | shows | runs | {} |\n{}\n",
            RELEASES.join(" | "),
            "| --- | --- | --- | --- | --- | --- |"
        ));
        for Scenario { name, shows, sweep } in scenarios {
            let runs = if sweep { "sweep" } else { "CI" };
            let on = seen.of(&name).join(" | ");
            text.push_str(&format!("| `{name}` | {shows} | {runs} | {on} |\n"));
            names.push(name);
        }
        text.push('\n');
    }
    text.push_str(&faults(&seen));
    let page = fill("docs/status.md", "scenarios", text.trim_end())?;
    for path in NAMING {
        let named = std::fs::read_to_string(workspace::root().join(path)).unwrap_or_default();
        if let Some(wrong) = italics(&named).find(|name| !names.iter().any(|n| n == name)) {
            return Err(Error::Input(format!(
                "{path} names {wrong}, and no scenario is called so"
            )));
        }
    }
    Ok(page)
}

/// The rows of the table of faults that CI runs: what they show is on a page of its own.
fn faults(seen: &Seen) -> String {
    let mut text = format!(
        "### Faults that CI has, of [faults.md](faults.md)\n\n| scenario | {} |\n{}\n",
        RELEASES.join(" | "),
        "| --- | --- | --- | --- |"
    );
    let rows = TABLE.iter().flat_map(|(_, faults)| *faults).filter(|fault| fault.quick);
    for name in rows.map(Fault::scenario) {
        text.push_str(&format!("| `{name}` | {} |\n", seen.of(&name).join(" | ")));
    }
    text
}

/// The rows of the table of scenarios and releases: all scenarios of CI, those of the table of
/// faults as well, and the sweeps that have run on some release.
///
/// # Errors
/// As [`page`].
pub fn matrix_rows() -> Result<Vec<String>> {
    let seen = Seen::open();
    let mut rows = Vec::new();
    for file in sources()? {
        let (_, scenarios) = read(&file)?;
        rows.extend(scenarios.into_iter().map(|scenario| (scenario.name, scenario.sweep)));
    }
    let faults = TABLE.iter().flat_map(|(_, faults)| *faults);
    rows.extend(faults.map(|fault| (fault.scenario(), !fault.quick)));
    let wanted = rows.into_iter().filter(|(name, sweep)| !sweep || seen.anywhere(name));
    Ok(wanted.map(|(name, _)| name).collect())
}

/// What stands between single stars and looks like a scenario's name.
fn italics(text: &str) -> impl Iterator<Item = &str> {
    text.split('*').skip(1).step_by(2).filter(|word| {
        word.contains('-') && word.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric())
    })
}

/// Every file of scenarios, sorted.
///
/// # Errors
/// [`Error::Io`] when a directory cannot be listed.
pub fn sources() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![workspace::root().join("qemu-tests/scenarios")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).map_err(Error::at("list", &dir))?.flatten() {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path if path.extension().is_some_and(|e| e == "rs") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What a file is about, and its scenarios.
fn read(path: &Path) -> Result<(String, Vec<Scenario>)> {
    let text = std::fs::read_to_string(path).map_err(Error::at("read", path))?;
    let file = syn::parse_file(&text)
        .map_err(|error| Error::Input(format!("{}: {error}", path.display())))?;
    let about = comment(&file.attrs);
    let about = about.split(['.', ':', ';']).next().unwrap_or_default().trim().to_string();
    let mut scenarios = Vec::new();
    for item in file.items {
        let function = match item {
            Item::Fn(function) => function,
            Item::Macro(made) if made.ident.is_none() => {
                scenarios.extend(rows(made.mac.tokens));
                continue;
            }
            _ => continue,
        };
        let has = |name: &str| function.attrs.iter().any(|a| a.path().is_ident(name));
        if !has("test") {
            continue;
        }
        let Some(name) = called_with(function.block.to_token_stream()) else { continue };
        let words = in_words(&function.sig.ident.to_string());
        let comment = comment(&function.attrs);
        let shows = if comment.is_empty() { words } else { comment };
        scenarios.push(Scenario { name, shows: shows.replace('|', "\\|"), sweep: has("ignore") });
    }
    Ok((about, scenarios))
}

/// The text of a comment for documentation, on one line.
fn comment(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else { return None };
        let Expr::Lit(literal) = &pair.value else { return None };
        let Lit::Str(text) = &literal.lit else { return None };
        pair.path.is_ident("doc").then(|| text.value().trim().to_string())
    });
    lines.collect::<Vec<_>>().join(" ").trim().to_string()
}

/// The first call of a function whose first argument may be a scenario's name.
fn called_with(code: TokenStream) -> Option<String> {
    let mut after_name = false;
    for token in code {
        if let TokenTree::Group(group) = &token {
            let first = group.stream().into_iter().next().filter(|_| after_name);
            let found = first.as_ref().and_then(name_of).or_else(|| called_with(group.stream()));
            if found.is_some() {
                return found;
            }
        }
        after_name = matches!(token, TokenTree::Ident(_));
    }
    None
}

/// Rows of a macro that makes tests: each has the test's name before the scenario's.
fn rows(code: TokenStream) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    let mut test = String::new();
    let mut in_row = false;
    for token in code {
        match &token {
            TokenTree::Ident(ident) if !in_row => test = ident.to_string(),
            TokenTree::Literal(_) if !in_row => {
                let sweep = test.starts_with("sweep_");
                let shows = in_words(&test);
                scenarios.extend(name_of(&token).map(|name| Scenario { name, shows, sweep }));
                in_row = true;
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => in_row = false,
            _ => {}
        }
    }
    scenarios
}

fn in_words(test: &str) -> String {
    test.trim_start_matches("sweep_").replace('_', " ")
}

fn name_of(token: &TokenTree) -> Option<String> {
    let TokenTree::Literal(literal) = token else { return None };
    let text = literal.to_string();
    let name = text.strip_prefix('"')?.strip_suffix('"')?;
    let fits = |b: u8| b == b'-' || b.is_ascii_digit() || b.is_ascii_lowercase();
    (!name.is_empty() && name.bytes().all(fits)).then(|| name.to_string())
}
