//! `cargo xtask dist`: what a release consists of. docs/release.md is the checklist.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use argh::FromArgs;
use cmdline::json::Json;
use qemu_tests::assets::media::run;
use qemu_tests::{Error, Result, workspace};
use toml::{Table, Value};

use crate::tools;

/// Make a release from a clean tree: the Debian package, a tarball with the static
/// program, a list of what they are made from, and checksums.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "dist")]
pub struct Dist {
    /// where to put them; target/dist by default
    #[argh(positional)]
    dir: Option<PathBuf>,
}

/// Packages that a release is made from, and the features they are built with. The
/// second one is the program inside the first.
const ROOTS: [(&str, &str); 2] = [("bellwether", ""), ("init", "freestanding")];

impl Dist {
    /// Makes everything. The same commit, compiler and packages give the same bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a tree with changes, [`Error::Command`] for a program that
    /// fails, [`Error::Io`] for files.
    pub fn run(self) -> Result<()> {
        let root = workspace::root();
        let top = root.to_string_lossy();
        let git = |words: &[&str]| run(&[&["git", "-C", &*top], words].concat());
        let changes = git(&["status", "--porcelain"])?;
        if !changes.trim().is_empty() {
            return Err(Error::Input(format!("commit or remove these first:\n{changes}")));
        }
        let epoch = git(&["log", "-1", "--format=%ct"])?.trim().to_owned();
        let dir = self.dir.unwrap_or_else(|| root.join("target/dist"));
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::at("empty", &dir)(e));
            }
            _ => fs::create_dir_all(&dir).map_err(Error::at("make", &dir))?,
        }
        let dir = fs::canonicalize(&dir).map_err(Error::at("find", &dir))?;

        let mut maker = Command::new(root.join("bellwether/packaging/make-deb"));
        maker.arg(&dir).env("SOURCE_DATE_EPOCH", &epoch);
        tools::run(&mut maker)?;
        let rustc = run(&["rustc", "-vV"])?;
        let about = |key| rustc.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
        let (host, rust) = (about("host: "), about("release: "));
        let glibc = run(&["getconf", "GNU_LIBC_VERSION"])?;
        let glibc = glibc.trim().rsplit(' ').next().unwrap_or_default();
        let linked =
            [("glibc", glibc, "LGPL-2.1-or-later"), ("rust-std", rust, "MIT OR Apache-2.0")];
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
        let built = root.join(target).join(host).join("release");

        let name = format!("bellwether-{}-{host}", env!("CARGO_PKG_VERSION"));
        tarball(&root, &built, &dir, &name, &epoch)?;
        let when = run(&["date", "--utc", "--date", &format!("@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"])?;
        let list = dir.join(format!("{name}.cdx.json"));
        let lock = root.join("Cargo.lock");
        let lock = fs::read_to_string(&lock).map_err(Error::at("read", &lock))?;
        fs::write(&list, bill(&used(host)?, &locked(&lock)?, &linked, when.trim()))
            .map_err(Error::at("write", &list))?;
        let sums =
            format!("cd '{}' && sha256sum -- * >SHA256SUMS && cat SHA256SUMS", dir.display());
        print!("{}", run(&["sh", "-euc", &sums])?);
        Ok(())
    }
}

/// The program and everything beside it, below a directory of the release's name.
fn tarball(root: &Path, built: &Path, dir: &Path, name: &str, epoch: &str) -> Result<()> {
    let script = r#"
        tree=$built/tarball/$name
        rm -rf "$built/tarball"
        mkdir -p "$tree/bin" "$tree/share/doc/bellwether"
        cp "$built/bellwether" "$tree/bin/"
        cp -R "$built/package-share/." "$tree/share/"
        cp -R "$root/docs" "$root"/README.md "$root"/CHANGELOG.md "$root"/LICENSE-* \
            "$tree/share/doc/bellwether/"
        chmod -R u=rwX,go=rX "$tree"
        tar --create --format=ustar --sort=name --mtime="@$epoch" --owner=0 --group=0 \
            --numeric-owner --directory="$built/tarball" "$name" | gzip -9n >"$dir/$name.tar.gz""#;
    let set = |key: &str, value: &str| format!("{key}='{value}'\n");
    let words = set("root", &root.to_string_lossy())
        + &set("built", &built.to_string_lossy())
        + &set("dir", &dir.to_string_lossy())
        + &set("name", name)
        + &set("epoch", epoch)
        + script;
    run(&["bash", "-euo", "pipefail", "-c", &words]).map(drop)
}

/// A package, by name and version.
type Id = (String, String);

/// What is linked: every package's licence and repository.
fn used(host: &str) -> Result<BTreeMap<Id, (String, String)>> {
    let mut all = BTreeMap::new();
    for (package, features) in ROOTS {
        let text = run(&[
            "cargo",
            "tree",
            "--quiet",
            "--locked",
            "--package",
            package,
            "--features",
            features,
            "--edges",
            "normal",
            "--target",
            host,
            "--prefix",
            "none",
            "--no-dedupe",
            "--format",
            "{p}|{l}|{r}",
        ])?;
        all.extend(text.lines().filter_map(one_used));
    }
    Ok(all)
}

/// A line of `cargo tree`.
fn one_used(line: &str) -> Option<(Id, (String, String))> {
    let mut fields = line.split('|');
    let mut id = fields.next()?.split_whitespace();
    let id = (id.next()?.to_owned(), id.next()?.strip_prefix('v')?.to_owned());
    // Old manifests have a slash between licences, which SPDX does not know.
    let licence: Vec<&str> = fields.next()?.split('/').map(str::trim).collect();
    let licence = licence.join(" OR ");
    Some((id, (licence, fields.next()?.to_owned())))
}

/// What Cargo.lock says of a package.
#[derive(Debug, Default)]
struct Locked {
    checksum: Option<String>,
    needs: Vec<Id>,
}

/// All packages of a Cargo.lock.
fn locked(text: &str) -> Result<BTreeMap<Id, Locked>> {
    let table: Table = text.parse().map_err(|e| Error::Input(format!("Cargo.lock: {e}")))?;
    let packages = table.get("package").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let field = |package: &Value, key| package.get(key)?.as_str().map(str::to_owned);
    let id = |package: &Value| Some((field(package, "name")?, field(package, "version")?));
    let ids: Vec<Id> = packages.iter().filter_map(id).collect();
    // A version stands beside a name only where there are several.
    let find = |need: &Value| {
        let mut words = need.as_str()?.split(' ');
        let (name, version) = (words.next()?, words.next());
        ids.iter().find(|id| id.0 == name && version.is_none_or(|v| v == id.1)).cloned()
    };
    let locked = |package: &Value| {
        let needs = package.get("dependencies").and_then(Value::as_array);
        let needs = needs.into_iter().flatten().filter_map(find).collect();
        Some((id(package)?, Locked { checksum: field(package, "checksum"), needs }))
    };
    Ok(packages.iter().filter_map(locked).collect())
}

/// The list of what a release is made from, as CycloneDX 1.5: crates, and what is `linked`
/// beside them, by name, version and licence.
fn bill(
    used: &BTreeMap<Id, (String, String)>,
    locked: &BTreeMap<Id, Locked>,
    linked: &[(&str, &str, &str)],
    when: &str,
) -> String {
    let purl = |id: &Id| format!("pkg:cargo/{}@{}", id.0, id.1);
    let mut json = Json::new();
    json.object().field("bomFormat", "CycloneDX").field("specVersion", "1.5").count("version", 1);
    json.key("metadata").object().field("timestamp", when).key("component").object();
    json.field("type", "application").field("bom-ref", "release");
    json.field("name", "bellwether").field("version", env!("CARGO_PKG_VERSION"));
    json.end_object().end_object().key("components").array();
    for (name, version, licence) in linked {
        json.object().field("type", "library").field("name", name).field("version", version);
        json.key("licenses").array().object().field("expression", licence);
        json.end_object().end_array().end_object();
    }
    for (id, (licence, repository)) in used {
        json.object().field("type", "library").field("bom-ref", &purl(id));
        json.field("name", &id.0).field("version", &id.1).field("purl", &purl(id));
        if let Some(sum) = locked.get(id).and_then(|l| l.checksum.as_deref()) {
            json.key("hashes").array().object();
            json.field("alg", "SHA-256").field("content", sum).end_object().end_array();
        }
        json.key("licenses").array().object().field("expression", licence);
        json.end_object().end_array();
        if !repository.is_empty() {
            json.key("externalReferences").array().object().field("type", "vcs");
            json.field("url", repository).end_object().end_array();
        }
        json.end_object();
    }
    json.end_array().key("dependencies").array();
    let roots = used.keys().filter(|id| ROOTS.iter().any(|root| root.0 == id.0));
    let entry = |json: &mut Json, of: &str, needs: Vec<String>| {
        json.object().field("ref", of).list("dependsOn", &needs).end_object();
    };
    entry(&mut json, "release", roots.map(purl).collect());
    for id in used.keys() {
        let needs = locked.get(id).map(|l| l.needs.as_slice()).unwrap_or_default();
        entry(
            &mut json,
            &purl(id),
            needs.iter().filter(|n| used.contains_key(n)).map(purl).collect(),
        );
    }
    json.end_array().end_object();
    json.finish() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_what_is_linked_and_what_it_needs() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
                    source = \"registry\"\nchecksum = \"00ff\"\ndependencies = [\n \"b 2.0.0\",\n \"c\",\n]\n\n\
                    [[package]]\nname = \"b\"\nversion = \"1.0.0\"\n\n\
                    [[package]]\nname = \"b\"\nversion = \"2.0.0\"\n\n\
                    [[package]]\nname = \"c\"\nversion = \"3.0.0\"\n";
        let locked = locked(lock).unwrap();
        let used = ["a v1.0.0|MIT / Apache-2.0|https://a.example", "b v2.0.0 (proc-macro)|MIT|"];
        let used: BTreeMap<_, _> = used.iter().filter_map(|line| one_used(line)).collect();
        let text = bill(&used, &locked, &[("libc", "1", "MIT")], "2026-11-29T00:00:00Z");
        for piece in [
            r#""purl":"pkg:cargo/a@1.0.0","hashes":[{"alg":"SHA-256","content":"00ff"}],"licenses":[{"expression":"MIT OR Apache-2.0"}]"#,
            r#"{"ref":"pkg:cargo/a@1.0.0","dependsOn":["pkg:cargo/b@2.0.0"]}"#,
            r#"{"ref":"pkg:cargo/b@2.0.0","dependsOn":[]}"#,
            r#"{"type":"library","name":"libc","version":"1","licenses":[{"expression":"MIT"}]}"#,
        ] {
            assert!(text.contains(piece), "{piece} is missing in {text}");
        }
        assert!(!text.contains("pkg:cargo/c"), "c is not linked: {text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
