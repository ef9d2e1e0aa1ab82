//! Arrows go one way: no circle of modules in any crate, and ARCHITECTURE.md's
//! picture of the crates is what `cargo metadata` says.
//!
//! A file uses another when it names an item that is defined there; re-exports are
//! followed to the definition, tests do not count. On each level of a crate its
//! files and folders must have an order: neither two files nor two folders use each
//! other, over however many steps, and a folder's own file counts as one of its
//! files. Names that a macro of another file puts together are not seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, TargetKind};
use proc_macro2::{TokenStream, TokenTree};
use qemu_tests::{Error, Result, workspace};
use quote::ToTokens as _;
use syn::ext::IdentExt as _;
use syn::{Attribute, File, Item, UseTree, Visibility};

use crate::marks::fill;

/// A module's name from the crate's root: `["nfs", "probe"]`.
type Module = Vec<String>;

/// Fails with every circle of modules in the workspace.
///
/// # Errors
/// [`Error::Input`] with each circle, [`Error::Io`] and [`Error::Input`] for sources
/// that cannot be read or parsed.
pub fn no_circles() -> Result<()> {
    let mut circles = Vec::new();
    for package in metadata()?.workspace_packages() {
        for target in &package.targets {
            let program = |kind: &TargetKind| matches!(kind, TargetKind::Lib | TargetKind::Bin);
            if target.kind.iter().any(program) {
                let sources = Sources::read(target.src_path.as_std_path())?;
                let circle = |c: String| format!("{} ({}): {c}", package.name, target.name);
                circles.extend(sources.circles().into_iter().map(circle));
            }
        }
    }
    match circles.len() {
        0 => Ok(()),
        n => Err(Error::Input(format!("{n} circles of modules:\n{}", circles.join("\n")))),
    }
}

/// ARCHITECTURE.md with the picture as the crates' manifests have it.
///
/// # Errors
/// [`Error::Input`] when the page has no place for the picture or cargo fails.
pub fn page() -> Result<String> {
    let picture = picture(&metadata()?);
    fill("ARCHITECTURE.md", "picture", &format!("```\n{picture}```"))
}

fn metadata() -> Result<Metadata> {
    let manifest = workspace::root().join("Cargo.toml");
    let mut command = MetadataCommand::new();
    command.manifest_path(manifest).no_deps();
    command.exec().map_err(|error| Error::Input(format!("cargo metadata: {error}")))
}

/// One line a crate, the highest floor first: a crate stands above all that it uses.
fn picture(metadata: &Metadata) -> String {
    let packages = metadata.workspace_packages();
    let names: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut floors: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in &packages {
        for package in &packages {
            let used = uses(package, &names);
            let floor = used.keys().map(|name| floors.get(name).map_or(0, |f| f + 1)).max();
            floors.insert(&package.name, floor.unwrap_or(0));
        }
    }
    let mut rooms: Vec<&&Package> = packages.iter().collect();
    rooms.sort_by_key(|p| (std::cmp::Reverse(floors.get(p.name.as_str())), p.name.as_str()));
    let mut text = String::from("floor  crate                uses\n");
    for room in rooms {
        let used: Vec<String> = uses(room, &names)
            .into_iter()
            .map(|(name, optional)| format!("{name}{}", if optional { " (full)" } else { "" }))
            .collect();
        let floor = floors.get(room.name.as_str()).copied().unwrap_or(0);
        let line = format!("  {floor}    {:<20} {}", room.name.as_str(), used.join(", "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The workspace's crates that this one is built with, and whether each is optional.
fn uses<'a>(package: &'a Package, names: &BTreeSet<&str>) -> BTreeMap<&'a str, bool> {
    let ours = package.dependencies.iter().filter(|dependency| {
        dependency.kind != DependencyKind::Development && names.contains(dependency.name.as_str())
    });
    ours.map(|dependency| (dependency.name.as_str(), dependency.optional)).collect()
}

/// The modules of one program or library.
#[derive(Debug, Default)]
struct Sources {
    /// By name; a module written inside a file has that file's name as its home.
    modules: BTreeMap<Module, Names>,
}

/// What one module has and names.
#[derive(Debug, Default)]
struct Names {
    /// The module whose file it stands in.
    home: Module,
    /// Items that are defined here.
    defined: BTreeSet<String>,
    /// Names from elsewhere, with the whole path; `*` for all.
    imported: Vec<Import>,
    /// Paths in its code.
    named: BTreeSet<Vec<String>>,
}

#[derive(Debug)]
struct Import {
    path: Vec<String>,
    name: String,
    /// Others may take the name from here; it is no use of the item by itself.
    passed_on: bool,
}

impl Sources {
    fn read(root: &Path) -> Result<Self> {
        let mut sources = Self::default();
        let dir = root.parent().unwrap_or(root).to_path_buf();
        sources.file(root, &dir, Vec::new())?;
        Ok(sources)
    }

    fn file(&mut self, path: &Path, dir: &Path, module: Module) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(Error::at("read", path))?;
        let parsed = syn::parse_file(&text)
            .map_err(|error| Error::Input(format!("{}: {error}", path.display())))?;
        let File { items, .. } = parsed;
        self.items(items, dir, &module, &module)
    }

    fn items(
        &mut self,
        items: Vec<Item>,
        dir: &Path,
        module: &Module,
        home: &Module,
    ) -> Result<()> {
        let mut names = Names { home: home.clone(), ..Names::default() };
        for item in items {
            match item {
                Item::Mod(inner) if tested(&inner.attrs) => {}
                Item::Mod(inner) => {
                    let child: Module =
                        [module.clone(), vec![inner.ident.unraw().to_string()]].concat();
                    let below = dir.join(inner.ident.unraw().to_string());
                    match inner.content {
                        Some((_, items)) => self.items(items, &below, &child, home)?,
                        None => self.file(&place(dir, &below), &below, child)?,
                    }
                }
                Item::Use(item) if !tested(&item.attrs) => {
                    let passed_on = !matches!(item.vis, Visibility::Inherited);
                    imports(&item.tree, &mut Vec::new(), passed_on, &mut names.imported);
                }
                Item::Use(_) => {}
                other => {
                    let (attributes, name) = about(&other);
                    if !tested(attributes) {
                        names.defined.extend(name);
                        paths(other.to_token_stream(), &mut names.named);
                    }
                }
            }
        }
        self.modules.insert(module.clone(), names);
        Ok(())
    }

    /// The file in which a path ends, if it is one of these.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<&Module> {
        let (first, rest) = path.split_first()?;
        let mut rest = rest;
        let mut at: Module = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => {
                let mut up = from.clone();
                up.pop();
                while let Some((_, others)) = rest.split_first().filter(|(n, _)| *n == "super") {
                    up.pop();
                    rest = others;
                }
                up
            }
            child => {
                let child = [from.clone(), vec![child.to_string()]].concat();
                if !self.modules.contains_key(&child) {
                    return None;
                }
                child
            }
        };
        while let Some((segment, after)) = rest.split_first() {
            let child = [at.clone(), vec![segment.clone()]].concat();
            if self.modules.contains_key(&child) {
                at = child;
                rest = after;
                continue;
            }
            let names = self.modules.get(&at)?;
            if names.defined.contains(segment) || depth == 0 {
                return Some(&names.home);
            }
            if let Some(import) = names.imported.iter().find(|i| i.name == *segment) {
                let whole = [import.path.clone(), after.to_vec()].concat();
                return self.resolve(&at, &whole, depth - 1);
            }
            let all = names.imported.iter().filter(|import| import.name == "*");
            let mut found = all.filter_map(|import| {
                let whole = [import.path.clone(), rest.to_vec()].concat();
                self.resolve(&at, &whole, depth - 1)
            });
            return found.next_back().or(Some(&names.home));
        }
        self.modules.get(&at).map(|names| &names.home)
    }

    /// Which file uses which, each by one name that shows it.
    fn arrows(&self) -> BTreeMap<(Module, Module), String> {
        let mut arrows = BTreeMap::new();
        for (module, names) in &self.modules {
            let mut used: Vec<(&[String], String)> = Vec::new();
            for import in &names.imported {
                let named = |path: &Vec<String>| path.first() == Some(&import.name);
                if !import.passed_on || names.named.iter().any(named) {
                    used.push((&import.path, import.path.join("::")));
                }
            }
            // A single word is a variable, or `crate` of `pub(crate)`.
            for path in names.named.iter().filter(|path| path.len() > 1) {
                used.push((path, path.join("::")));
            }
            for (path, shown) in used {
                if let Some(to) = self.resolve(module, path, 8).filter(|to| **to != names.home) {
                    arrows.entry((names.home.clone(), to.clone())).or_insert(shown);
                }
            }
        }
        arrows
    }

    /// Every circle on every level, in words.
    fn circles(&self) -> Vec<String> {
        let arrows = self.arrows();
        let mut levels: BTreeSet<&[String]> = BTreeSet::new();
        for module in self.modules.keys() {
            for cut in 0..=module.len() {
                levels.extend(module.get(..cut));
            }
        }
        let mut circles = Vec::new();
        for level in levels {
            let node = |module: &Module| {
                let below = module.strip_prefix(level)?;
                Some(below.first().cloned().unwrap_or_default())
            };
            let mut here: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
            for ((from, to), name) in &arrows {
                if let (Some(a), Some(b)) = (node(from), node(to))
                    && a != b
                {
                    let words = format!("{} names {name}", shown(from));
                    here.entry(a).or_default().entry(b).or_insert(words);
                }
            }
            let mut seen: BTreeSet<String> = BTreeSet::new();
            for start in here.keys() {
                let circle = shortest(&here, start).filter(|c| !c.iter().any(|n| seen.contains(n)));
                if let Some(circle) = circle {
                    let steps = circle.iter().zip(circle.iter().cycle().skip(1));
                    let words: Vec<&str> = steps
                        .filter_map(|(a, b)| here.get(a)?.get(b).map(String::as_str))
                        .collect();
                    circles.push(format!("below {}: {}", shown(level), words.join(", ")));
                    seen.extend(circle);
                }
            }
        }
        circles
    }
}

/// The shortest way from a node back to itself.
fn shortest(
    arrows: &BTreeMap<String, BTreeMap<String, String>>,
    start: &String,
) -> Option<Vec<String>> {
    let mut queue = VecDeque::from([vec![start.clone()]]);
    let mut seen: BTreeSet<&String> = BTreeSet::new();
    while let Some(way) = queue.pop_front() {
        for next in arrows.get(way.last()?).into_iter().flat_map(BTreeMap::keys) {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                queue.push_back([way.clone(), vec![next.clone()]].concat());
            }
        }
    }
    None
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "the root".to_string() } else { module.join("::") }
}

/// A child module's file.
fn place(dir: &Path, below: &Path) -> PathBuf {
    let beside = below.with_extension("rs");
    if beside.exists() || dir == below { beside } else { below.join("mod.rs") }
}

/// `#[cfg(test)]`, alone or among others.
fn tested(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let words = attribute.meta.to_token_stream().to_string();
        words == "test"
            || (words.starts_with("cfg (") || words.starts_with("cfg("))
                && words.contains("test")
                && !words.contains("not (test")
                && !words.contains("not(test")
    })
}

/// An item's attributes, and the name that it defines.
fn about(item: &Item) -> (&[Attribute], Option<String>) {
    match item {
        Item::Const(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Enum(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Fn(i) => (&i.attrs, Some(i.sig.ident.to_string())),
        Item::Macro(i) => (&i.attrs, i.ident.as_ref().map(ToString::to_string)),
        Item::Static(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Struct(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Trait(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Type(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Union(i) => (&i.attrs, Some(i.ident.to_string())),
        Item::Impl(i) => (&i.attrs, None),
        _ => (&[], None),
    }
}

/// Every name that a `use` brings in.
fn imports(tree: &UseTree, path: &mut Vec<String>, passed_on: bool, into: &mut Vec<Import>) {
    let mut leaf = |path: Vec<String>, name: String| into.push(Import { path, name, passed_on });
    match tree {
        UseTree::Path(step) => {
            path.push(step.ident.unraw().to_string());
            imports(&step.tree, path, passed_on, into);
            path.pop();
        }
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| imports(tree, path, passed_on, into));
        }
        UseTree::Glob(_) => leaf(path.clone(), "*".to_string()),
        UseTree::Name(name) if name.ident == "self" => {
            leaf(path.clone(), path.last().cloned().unwrap_or_default());
        }
        UseTree::Name(name) => {
            let name = name.ident.unraw().to_string();
            leaf([path.clone(), vec![name.clone()]].concat(), name);
        }
        UseTree::Rename(step) => {
            let mut whole = path.clone();
            if step.ident != "self" {
                whole.push(step.ident.to_string());
            }
            leaf(whole, step.rename.to_string());
        }
    }
}

/// Every `a::b::c` in a piece of code, also inside macros; single names, too, but not
/// those of methods and fields.
fn paths(code: TokenStream, into: &mut BTreeSet<Vec<String>>) {
    let mut path: Vec<String> = Vec::new();
    let (mut colons, mut member) = (0, false);
    for token in code {
        match token {
            TokenTree::Ident(_) if member => member = false,
            TokenTree::Ident(name) => {
                if colons != 2 && !path.is_empty() {
                    into.insert(std::mem::take(&mut path));
                }
                path.push(name.unraw().to_string());
                colons = 0;
            }
            TokenTree::Punct(mark) if mark.as_char() == ':' && !path.is_empty() => colons += 1,
            other => {
                if !path.is_empty() {
                    into.insert(std::mem::take(&mut path));
                }
                colons = 0;
                // Not behind the two dots of a range.
                let dot = matches!(&other, TokenTree::Punct(mark) if mark.as_char() == '.');
                member = dot && !member;
                if let TokenTree::Group(group) = other {
                    paths(group.stream(), into);
                }
            }
        }
    }
    if !path.is_empty() {
        into.insert(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crate of these files, `lib` first.
    fn sources(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Sources::read(&dir.path().join("lib.rs")).unwrap().circles()
    }

    #[test]
    fn one_way_is_fine() {
        let files = [
            ("lib.rs", "pub mod a; pub mod b; pub mod c; pub use b::Thing;"),
            ("a.rs", "use crate::Thing; fn f(_: Thing) {}"),
            ("c.rs", "mod d; pub use d::g; pub fn h(t: &str) { t.g() }"),
            ("c/d.rs", "pub fn g() { super::h(\"\") }"),
            ("b.rs", "pub struct Thing; #[cfg(test)] mod tests { use crate::a::f; }"),
        ];
        assert_eq!(sources(&files), [""; 0]);
    }

    #[test]
    fn two_files_that_use_each_other_are_a_circle() {
        let files = [
            ("lib.rs", "pub mod a; pub mod b;"),
            ("a.rs", "use crate::b::Thing; pub const N: u8 = 1; fn f(_: Thing) {}"),
            ("b.rs", "pub struct Thing; fn g() -> u8 { format!(\"{}\", crate::a::N); 1 }"),
        ];
        let said = "below the root: a names crate::b::Thing, b names crate::a::N";
        assert_eq!(sources(&files), [said]);
    }

    #[test]
    fn a_circle_through_a_re_export_is_found() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; pub use c::Thing;"),
            ("a.rs", "pub fn f(_: crate::Thing) {}"),
            ("b.rs", "use super::a; pub fn g() { a::f(crate::Thing) }"),
            ("c.rs", "use crate::b::*; pub struct Thing;"),
        ];
        assert_eq!(sources(&files).len(), 1);
    }

    #[test]
    fn two_folders_that_use_each_other_are_a_circle() {
        let files = [
            ("lib.rs", "mod edge; mod wire;"),
            ("edge/mod.rs", "pub mod loops; pub mod cook;"),
            ("edge/loops.rs", "use crate::wire::head::Head; fn f(_: Head) {}"),
            ("edge/cook.rs", "pub struct Cook;"),
            ("wire/mod.rs", "pub mod head;"),
            ("wire/head.rs", "pub struct Head(crate::edge::cook::Cook);"),
        ];
        assert_eq!(sources(&files).len(), 1);
    }

    #[test]
    fn a_folders_file_and_its_child_may_be_a_circle() {
        let files = [
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod b; pub struct Up; pub fn f() { b::g(Up) }"),
            ("a/b.rs", "pub fn g(_: super::Up) {}"),
        ];
        assert_eq!(sources(&files), ["below a: a names b::g, a::b names super::Up"]);
    }
}
