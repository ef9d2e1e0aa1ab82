//! `cargo xtask deny`: other people's code, held against `deny.toml`.
//!
//! The rules are those of cargo-deny, in its own file, which it reads as well. It is not
//! what the checks run, for two reasons: building it costs nearly four minutes of processor
//! time on a fresh computer, and it wants the advisory database as a git clone, which a
//! build without network does not have. The sweeps run it. What is checked here: licences, sources,
//! bans and build scripts by `cargo metadata` of every target and feature; advisories by
//! the snapshot [`SNAPSHOT`], which says how old it is. Not checked here: yanked versions.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use argh::FromArgs;
use cargo_metadata::{Metadata, MetadataCommand, Package, TargetKind};
use qemu_tests::assets::media::run;
use qemu_tests::{Error, Result, workspace};
use semver::{Version, VersionReq};
use spdx::{Expression, Licensee, ParseMode};
use toml::{Table, Value};

use crate::tools;

/// Check licences, sources, advisories, bans and build scripts of all dependencies.
/// For instance: cargo xtask deny --update ../advisory-db
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "deny")]
pub struct Deny {
    /// make the stored advisories anew from this clone of RustSec's advisory-db, then check
    #[argh(option)]
    update: Option<PathBuf>,
}

/// The crates.io index as `cargo metadata` names it.
const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Stored advisories: a line with their date, then one line each.
const SNAPSHOT: &str = "xtask/advisories.txt";

impl Deny {
    /// Checks everything.
    ///
    /// # Errors
    /// [`Error::Input`] with every dependency that breaks a rule, or for a snapshot that
    /// cannot be made or read.
    pub fn run(self) -> Result<()> {
        let snapshot = workspace::root().join(SNAPSHOT);
        if let Some(clone) = self.update {
            let text = snapshot_of(&clone)?;
            fs::write(&snapshot, text).map_err(Error::at("write", &snapshot))?;
        }
        check()
    }
}

/// What [`Deny::run`] does without an update.
///
/// # Errors
/// As [`Deny::run`].
pub fn check() -> Result<()> {
    let root = workspace::root();
    let rules = root.join("deny.toml");
    let rules = fs::read_to_string(&rules).map_err(Error::at("read", &rules))?;
    let rules = Rules::parse(&rules)?;
    let snapshot = root.join(SNAPSHOT);
    let snapshot = fs::read_to_string(&snapshot).map_err(Error::at("read", &snapshot))?;
    let advisories = Advisories::parse(&snapshot)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let days = (now.as_secs() / 86_400).saturating_sub(day_number(&advisories.date)?);
    let mut broken = Vec::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let metadata = MetadataCommand::new()
            .manifest_path(root.join(manifest))
            .features(cargo_metadata::CargoOpt::AllFeatures)
            .other_options(["--locked".to_owned()])
            .exec()
            .map_err(|error| Error::Input(format!("cargo metadata: {error}")))?;
        let foreign = metadata.packages.iter().filter(|p| p.source.is_some()).count();
        println!("{manifest}: {foreign} packages of others");
        let found = rules.check(&metadata, &advisories.list)?;
        broken.extend(found.into_iter().map(|what| format!("{manifest}: {what}")));
    }
    println!(
        "{} advisories, of {}, {days} days old; `cargo xtask deny --update CLONE` renews them \
         from a clone of RustSec's advisory-db",
        advisories.list.len(),
        advisories.date
    );
    broken.sort();
    broken.dedup();
    if broken.is_empty() { Ok(()) } else { Err(Error::Input(broken.join("\n"))) }
}

/// The same rules by cargo-deny itself, which is installed into the target directory where
/// it is missing. Its advisories need the network, so they stay with [`check`].
///
/// # Errors
/// [`Error::Command`] for what cargo-deny refuses, or when it cannot be installed.
pub fn check_by_cargo_deny() -> Result<()> {
    let program = tools::cargo_tool("cargo-deny")?;
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let mut deny = Command::new(&program);
        deny.args(["deny", "--offline", "--config", "deny.toml", "--manifest-path", manifest]);
        deny.args(["check", "licenses", "bans", "sources"]);
        tools::run(deny.current_dir(workspace::root()))?;
    }
    Ok(())
}

/// What of `deny.toml` is checked here.
#[derive(Debug, Default)]
struct Rules {
    licences: Vec<Licensee>,
    banned: Vec<String>,
    build_scripts: Vec<String>,
    ignored: Vec<String>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|e| Error::Input(format!("deny.toml: {e}")))?;
        let licences = names(&table, "licenses", "allow")?;
        let licences = licences.iter().map(|name| {
            Licensee::parse(name).map_err(|e| Error::Input(format!("deny.toml: {name}: {e}")))
        });
        let build = table.get("bans").and_then(|bans| bans.get("build")).cloned();
        let build = Table::from_iter(build.map(|build| ("build".to_owned(), build)));
        Ok(Self {
            licences: licences.collect::<Result<_>>()?,
            banned: names(&table, "bans", "deny")?,
            build_scripts: names(&build, "build", "allow-build-scripts")?,
            ignored: names(&table, "advisories", "ignore")?,
        })
    }

    /// Everything that breaks a rule.
    fn check(&self, metadata: &Metadata, advisories: &[Advisory]) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for package in metadata.packages.iter().filter(|package| package.source.is_some()) {
            let id = format!("{} {}", package.name, package.version);
            let mut refuse = |why: String| broken.push(format!("{id} {why}"));
            if package.source.as_ref().is_some_and(|source| source.repr != INDEX) {
                refuse("does not come from crates.io".to_owned());
            }
            let licence = package.license.as_deref().unwrap_or_default();
            let expression = Expression::parse_mode(licence, ParseMode::LAX);
            let may = |it: &Expression| {
                it.evaluate(|one| self.licences.iter().any(|ours| ours.satisfies(one)))
            };
            if !expression.as_ref().is_ok_and(may) {
                refuse(format!("has a licence that deny.toml does not allow: {licence:?}"));
            }
            if self.banned.contains(&package.name) {
                refuse("is banned by deny.toml".to_owned());
            }
            let is_script = |kind: &TargetKind| *kind == TargetKind::CustomBuild;
            let script = package.targets.iter().any(|target| target.kind.iter().any(is_script));
            if script && !self.build_scripts.contains(&package.name) {
                refuse(
                    "has a build script: read it, then add it to deny.toml's allow-build-scripts"
                        .to_owned(),
                );
            }
            let ours = direct(metadata, package);
            for advisory in advisories.iter().filter(|a| a.package == *package.name) {
                let counts = advisory.kind.counts(ours) && !self.ignored.contains(&advisory.id);
                if counts && advisory.covers(&package.version) {
                    let (id, kind) = (&advisory.id, advisory.kind.name());
                    refuse(format!(
                        "has the advisory {id} ({kind}), fixed in {}",
                        advisory.fixed()
                    ));
                }
            }
        }
        let local = metadata.packages.iter().filter(|package| package.source.is_none());
        for package in local {
            for needs in package.dependencies.iter().filter(|needs| needs.path.is_none()) {
                if needs.req == VersionReq::STAR {
                    broken.push(format!("{} takes any version of {}", package.name, needs.name));
                }
            }
        }
        Ok(broken)
    }
}

/// Whether a manifest of ours names this package.
fn direct(metadata: &Metadata, package: &Package) -> bool {
    let ours = metadata.packages.iter().filter(|package| package.source.is_none());
    let mut needs = ours.flat_map(|package| &package.dependencies);
    needs.any(|needs| needs.name == *package.name)
}

/// A list of names, or of tables with a name in `id` or `crate`.
fn names(table: &Table, section: &str, key: &str) -> Result<Vec<String>> {
    let list = table.get(section).and_then(|section| section.get(key));
    let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let name = |value: &Value| {
        let within = || value.get("id").or_else(|| value.get("crate"));
        value.as_str().or_else(|| within().and_then(Value::as_str)).map(str::to_owned)
    };
    list.iter()
        .map(|value| {
            name(value).ok_or_else(|| {
                Error::Input(format!("deny.toml: {section}.{key} has an entry without a name"))
            })
        })
        .collect()
}

/// What an advisory says of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vulnerability,
    Unsound,
    Unmaintained,
    Notice,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Vulnerability, Self::Unsound, Self::Unmaintained, Self::Notice];

    fn name(self) -> &'static str {
        match self {
            Self::Vulnerability => "vulnerability",
            Self::Unsound => "unsound",
            Self::Unmaintained => "unmaintained",
            Self::Notice => "notice",
        }
    }

    /// Whether it fails the check for a package that a manifest of ours names, or not.
    fn counts(self, direct: bool) -> bool {
        match self {
            Self::Vulnerability | Self::Unsound => true,
            Self::Unmaintained => direct,
            Self::Notice => false,
        }
    }
}

/// One advisory, as much of it as decides.
#[derive(Debug)]
struct Advisory {
    id: String,
    package: String,
    kind: Kind,
    /// Versions that are fixed or never had it.
    clean: Vec<VersionReq>,
}

impl Advisory {
    fn covers(&self, version: &Version) -> bool {
        // A pre-release matches no requirement without one: it counts as not fixed.
        !self.clean.iter().any(|clean| clean.matches(version))
    }

    fn fixed(&self) -> String {
        let list: Vec<String> = self.clean.iter().map(VersionReq::to_string).collect();
        if list.is_empty() { "no version".to_owned() } else { list.join(" or ") }
    }

    /// The line of the snapshot.
    fn line(&self) -> String {
        let clean: Vec<String> = self.clean.iter().map(VersionReq::to_string).collect();
        let line =
            format!("{} {} {} {}", self.id, self.package, self.kind.name(), clean.join(" | "));
        line.trim_end().to_owned()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let (id, package, kind) = (words.next()?, words.next()?, words.next()?);
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
        let clean = words
            .next()
            .unwrap_or_default()
            .split('|')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let clean = clean.map(VersionReq::parse).collect::<std::result::Result<_, _>>().ok()?;
        Some(Self { id: id.to_owned(), package: package.to_owned(), kind, clean })
    }

    /// An advisory of the database: TOML in the first block of a Markdown text. Nothing for
    /// one that was withdrawn.
    fn of_database(text: &str) -> std::result::Result<Option<Self>, String> {
        let front = text.split("```").nth(1).and_then(|block| block.strip_prefix("toml"));
        let table: Table = front.ok_or("has no TOML block")?.parse().map_err(|e| format!("{e}"))?;
        let head = table.get("advisory").ok_or("has no [advisory]")?;
        if head.get("withdrawn").is_some() {
            return Ok(None);
        }
        let word = |key: &str| head.get(key).and_then(Value::as_str).map(str::trim);
        let kind = word("informational").unwrap_or(Kind::Vulnerability.name());
        let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
        let mut clean = Vec::new();
        for list in ["patched", "unaffected"] {
            let list = table.get("versions").and_then(|versions| versions.get(list));
            let list = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for word in list.iter().filter_map(Value::as_str) {
                clean.push(VersionReq::parse(word).map_err(|e| format!("{word}: {e}"))?);
            }
        }
        let (id, package) = (word("id").ok_or("has no id")?, word("package").ok_or("no package")?);
        let kind = kind.ok_or("is of no known kind")?;
        Ok(Some(Self { id: id.to_owned(), package: package.to_owned(), kind, clean }))
    }
}

/// The stored advisories.
#[derive(Debug)]
struct Advisories {
    date: String,
    list: Vec<Advisory>,
}

impl Advisories {
    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let mut lines = lines.filter(|line| !line.is_empty());
        let date = lines.next().and_then(|line| line.strip_prefix("date "));
        let date = date.ok_or_else(|| Error::Input(format!("{SNAPSHOT} begins with no date")))?;
        let list = lines.map(|line| {
            Advisory::parse(line).ok_or_else(|| Error::Input(format!("{SNAPSHOT}: {line}")))
        });
        Ok(Self { date: date.to_owned(), list: list.collect::<Result<_>>()? })
    }
}

/// The snapshot of a clone of RustSec's advisory-db, with the date of its last commit.
fn snapshot_of(clone: &Path) -> Result<String> {
    let at = clone.to_string_lossy();
    let git = |words: &[&str]| run(&[&["git", "-C", &*at], words].concat());
    let date = git(&["log", "-1", "--format=%cs"])?;
    // A clone need not have its files laid out.
    let files = git(&["ls-tree", "-r", "--name-only", "HEAD", "crates"])?;
    let mut lines = Vec::new();
    for file in files.lines().filter(|file| file.ends_with(".md")) {
        let text = git(&["show", &format!("HEAD:{file}")])?;
        let advisory = Advisory::of_database(&text);
        let advisory = advisory.map_err(|why| Error::Input(format!("{file}: {why}")))?;
        lines.extend(advisory.map(|advisory| advisory.line()));
    }
    lines.sort_unstable();
    let mut text = String::from(
        "# RustSec's advisories, reduced: id, crate, kind, versions without the fault.\n\
         # `cargo xtask deny --update CLONE` makes this file.\n",
    );
    let _ = writeln!(text, "date {}", date.trim());
    lines.iter().for_each(|line| {
        let _ = writeln!(text, "{line}");
    });
    Ok(text)
}

/// Days from 1970 to a date like 2026-08-21.
fn day_number(date: &str) -> Result<u64> {
    let parts: Option<Vec<i64>> = date.split('-').map(|part| part.parse().ok()).collect();
    let Some([year, month, day]) = parts.as_deref() else {
        return Err(Error::Input(format!("{SNAPSHOT}: {date} is no date")));
    };
    // The year begins in March, so that the leap day is its last.
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Ok(u64::try_from(days - 719_468).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut command = MetadataCommand::new();
        command.manifest_path(workspace::root().join("Cargo.toml"));
        command.other_options(["--locked".to_owned()]).exec().unwrap()
    }

    fn rules() -> String {
        fs::read_to_string(workspace::root().join("deny.toml")).unwrap()
    }

    /// Each rule refuses what it is for: with one changed, the tree as it is breaks it.
    #[test]
    fn each_rule_refuses() {
        let metadata = metadata();
        let version = metadata.packages.iter().find(|p| *p.name == "rustix").unwrap();
        let version = version.version.clone();
        let refused = |from: &str, to: &str, advisory: &str| {
            let text = rules();
            assert!(text.contains(from), "{from}");
            let rules = Rules::parse(&text.replace(from, to)).unwrap();
            let list: Vec<Advisory> = Advisory::parse(advisory).into_iter().collect();
            assert_eq!(list.len(), usize::from(!advisory.is_empty()), "{advisory}");
            rules.check(&metadata, &list).unwrap().join("\n")
        };
        assert_eq!(refused("", "", ""), "");
        assert!(refused(r#""MIT", "#, "", "").contains("licence"));
        assert!(refused(r#""curl-sys""#, r#""rustix""#, "").contains("rustix"));
        assert!(refused("    \"rustix\",\n", "", "").contains("build script"));
        let advisory = |kind: &str, name: &str, clean: &str| {
            refused("", "", &format!("RUSTSEC-2026-0001 {name} {kind} {clean}"))
        };
        assert!(advisory("vulnerability", "rustix", "").contains("RUSTSEC-2026-0001"));
        assert!(advisory("unsound", "rustix", "<0.1 | >99").contains("fixed in <0.1 or >99"));
        assert_eq!(advisory("unsound", "rustix", &format!("<0.1 | >={version}")), "");
        assert!(advisory("unmaintained", "rustix", "").contains("unmaintained"));
        // Of a crate that others need, its author's leave is for them to judge.
        assert_eq!(advisory("unmaintained", "memoffset", ""), "");
        assert_eq!(advisory("notice", "rustix", ""), "");
        let ignored = r#"ignore = [{ id = "RUSTSEC-2026-0001", reason = "a test" }]"#;
        let line = "RUSTSEC-2026-0001 rustix vulnerability ";
        assert_eq!(refused("ignore = []", ignored, line), "");
    }

    #[test]
    fn only_the_index_of_crates_io_is_a_source() {
        let mut metadata = metadata();
        let rules = Rules::parse(&rules()).unwrap();
        let package = metadata.packages.iter_mut().find(|p| *p.name == "rustix").unwrap();
        package.source.as_mut().unwrap().repr = "git+https://example.org/rustix".to_owned();
        let broken = rules.check(&metadata, &[]).unwrap();
        assert!(broken.len() == 1 && broken[0].contains("crates.io"), "{broken:?}");
    }

    #[test]
    fn advisories_are_reduced_to_what_decides() {
        let text = |more: &str| {
            format!(
                "```toml\n[advisory]\nid = \"RUSTSEC-2022-0001\"\npackage = \"a\"\n{more}\n\
                 [versions]\npatched = [\">= 1.2.0\"]\nunaffected = [\"< 1.0\"]\n```\n# Title\n"
            )
        };
        let line = |more: &str| Advisory::of_database(&text(more)).unwrap().map(|a| a.line());
        let whole = "RUSTSEC-2022-0001 a vulnerability >=1.2.0 | <1.0";
        assert_eq!(line("").as_deref(), Some(whole));
        assert_eq!(Advisory::parse(whole).unwrap().line(), whole);
        assert!(line("informational = \"unsound\"").unwrap().contains(" unsound "));
        assert_eq!(line("withdrawn = \"2023-01-01\""), None);
        assert!(Advisory::of_database("no block").is_err());
        let covered =
            |version| Advisory::parse(whole).unwrap().covers(&Version::parse(version).unwrap());
        assert_eq!(
            ["0.9.0", "1.1.0", "1.2.0", "1.2.0-rc.1"].map(covered),
            [false, true, false, true]
        );
    }

    #[test]
    fn dates_are_counted_in_days() {
        assert_eq!(day_number("1970-01-01").unwrap(), 0);
        assert_eq!(day_number("2024-03-01").unwrap() - day_number("2024-02-28").unwrap(), 2);
        assert_eq!(day_number("2026-08-21").unwrap(), 20_686);
        assert!(day_number("yesterday").is_err());
    }
}
