//! A kernel's module tree: its modules, their dependencies and the devices they serve.
//!
//! The tree may be a directory or part of an initramfs or a package. depmod's files are used
//! where they exist, because compressed modules then need not be unpacked. The rest comes from
//! each module's `.modinfo`: depmod need not have run.
//!
//! Not read: `modules.symbols` (dependencies are already names) and the
//! binary `.bin` tries (private to kmod).

use crate::compress;
use crate::container::Container;
use crate::error::Error;
use crate::modinfo::{self, Modinfo, ModinfoError};
use coldplug::index::{Compression, fnmatch, normalise_name, normalise_pattern};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The most that one module may unpack to. The largest in Debian's kernels
/// is 24 MiB.
const MODULE_MAX: usize = 512 << 20;

/// Decompresses a module file.
fn unpack(path: &str, how: Compression, data: Vec<u8>) -> Result<Vec<u8>, Error> {
    if how == Compression::None {
        return Ok(data);
    }
    let out = compress::decompress(how.into(), &data, MODULE_MAX);
    out.map(|(data, _)| data).map_err(|source| Error::Unpack { path: path.into(), source })
}

/// One module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelModule {
    /// Normalised name.
    pub name: String,
    /// Path in the tree, as `kernel/fs/nfs/nfs.ko.xz`.
    pub path: String,
    /// How its file is compressed.
    pub compression: Compression,
    /// Names of modules that it depends on; at least the direct ones.
    pub depends: Vec<String>,
    /// Alias patterns, normalised.
    pub aliases: Vec<String>,
    /// Names or aliases to load before it if possible.
    pub soft_pre: Vec<String>,
    /// Names or aliases to load after it if possible.
    pub soft_post: Vec<String>,
    /// Names or aliases that it may ask for when running.
    pub weak: Vec<String>,
}

impl KernelModule {
    /// Path below `kernel/`, or the whole path for modules from elsewhere.
    #[must_use]
    pub fn place(&self) -> &str {
        self.path.strip_prefix("kernel/").unwrap_or(&self.path)
    }

    /// Takes dependencies and aliases from the module itself.
    fn describe(&mut self, info: &Modinfo) {
        let list = |key| info.values(key).flat_map(|v| v.split([',', ' ']));
        let named = |key| list(key).filter(|n| !n.is_empty());
        self.depends = named("depends").map(normalise_name).collect();
        self.aliases = info.values("alias").map(normalise_pattern).collect();
        self.weak = named("weakdep").map(str::to_owned).collect();
        for text in info.values("softdep") {
            softdep(text, &mut self.soft_pre, &mut self.soft_post);
        }
    }
}

/// All modules of one kernel.
#[derive(Debug, Clone)]
pub struct KernelTree {
    /// Kernel release, as in `uname -r`.
    pub release: String,
    /// ELF machine of the modules; 0 if there are none.
    pub machine: u16,
    /// The modules in the order of `modules.order`, others after them.
    pub modules: Vec<KernelModule>,
    /// Normalised names of built-in modules.
    pub builtin: BTreeSet<String>,
    /// Normalised alias patterns of built-in modules, with the name.
    pub builtin_aliases: Vec<(String, String)>,
    by_name: BTreeMap<String, usize>,
    base: String,
    source: Container,
}

/// Splits a path into module name and compression.
fn module_file(path: &str) -> Option<(&str, Compression)> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let name = |how: Compression| file.strip_suffix(how.ending())?.strip_suffix(".ko");
    Compression::ALL.into_iter().find_map(|how| Some((name(how)?, how)))
}

/// The part of a path before `.ko`: common to `modules.order` and a compressed file.
fn stem(path: &str) -> &str {
    path.rsplit_once(".ko").map_or(path, |(stem, _)| stem)
}

/// A path in a directory that may be the root.
fn below(base: &str, path: &str) -> String {
    if base.is_empty() { path.to_owned() } else { format!("{base}/{path}") }
}

/// Splits `pre: a b post: c`.
pub(crate) fn softdep(text: &str, pre: &mut Vec<String>, post: &mut Vec<String>) {
    let mut after = false;
    for word in text.split_ascii_whitespace() {
        match word {
            "pre:" => after = false,
            "post:" => after = true,
            word if after => post.push(word.into()),
            word => pre.push(word.into()),
        }
    }
}

/// What depmod has written, by path and by name: only its files together are complete.
#[derive(Default)]
struct Depmod {
    depends: BTreeMap<String, Vec<String>>,
    aliases: BTreeMap<String, Vec<String>>,
    softdeps: BTreeMap<String, (Vec<String>, Vec<String>)>,
    weakdeps: BTreeMap<String, Vec<String>>,
}

impl Depmod {
    fn read(text: &dyn Fn(&str) -> Result<Option<String>, Error>) -> Result<Self, Error> {
        let mut all = Self::default();
        let files = (text("modules.dep")?, text("modules.alias")?, text("modules.softdep")?);
        let (Some(dep), Some(alias), Some(soft)) = files else { return Ok(all) };
        for (path, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let name = |path| module_file(path).map(|(name, _)| normalise_name(name));
            let needs = needs.split_ascii_whitespace().filter_map(name).collect();
            all.depends.insert(path.to_owned(), needs);
        }
        for line in alias.lines().filter_map(|l| l.strip_prefix("alias ")) {
            if let Some((pattern, name)) = line.trim().rsplit_once(' ') {
                let list = all.aliases.entry(normalise_name(name)).or_default();
                list.push(normalise_pattern(pattern.trim()));
            }
        }
        for line in soft.lines().filter_map(|l| l.strip_prefix("softdep ")) {
            if let Some((name, rest)) = line.split_once(' ') {
                let (pre, post) = all.softdeps.entry(normalise_name(name)).or_default();
                softdep(rest, pre, post);
            }
        }
        let weak = text("modules.weakdep")?.unwrap_or_default();
        for line in weak.lines().filter_map(|l| l.strip_prefix("weakdep ")) {
            if let Some((name, rest)) = line.split_once(' ') {
                let list = all.weakdeps.entry(normalise_name(name)).or_default();
                list.extend(rest.split_ascii_whitespace().map(str::to_owned));
            }
        }
        Ok(all)
    }

    /// Each module's file. Of two files with one name depmod's choice counts, then its default
    /// search order: updates before the rest.
    fn choose<'f>(&self, files: &'f [String]) -> BTreeMap<String, (&'f str, Compression)> {
        let rank = |path: &str| (self.depends.contains_key(path), path.starts_with("updates/"));
        let mut chosen: BTreeMap<String, (&str, Compression)> = BTreeMap::new();
        for path in files {
            let Some((name, how)) = module_file(path) else { continue };
            let name = normalise_name(name);
            if chosen.get(&name).is_none_or(|(there, _)| rank(there) < rank(path)) {
                chosen.insert(name, (path, how));
            }
        }
        chosen
    }
}

impl KernelTree {
    /// Reads the tree at `base` of a source. The release is the directory's name, unless the
    /// modules have another.
    ///
    /// # Errors
    /// The tree cannot be read, or a module in it is damaged. No module at
    /// all is an error when `modules.builtin` is missing too, or when `modules.order` names
    /// some: then this is not a module tree.
    pub fn load(source: Container, base: &str) -> Result<Self, Error> {
        let origin = match &source {
            Container::Dir(root) => root.join(base),
            _ => base.into(),
        };
        let release = origin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = source.list(base)?;
        let text = |name: &str| -> Result<Option<String>, Error> {
            let bytes = source.read_if_any(&below(base, name))?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let builtin_text = text("modules.builtin")?;
        let order = text("modules.order")?.unwrap_or_default();
        let mut depmod = Depmod::read(&text)?;
        let chosen = depmod.choose(&files);
        // A kernel without modules has lists of them that are empty.
        if chosen.is_empty() && (builtin_text.is_none() || !order.trim().is_empty()) {
            return Err(Error::NoModules { path: origin });
        }

        let mut tree = Self {
            release,
            machine: 0,
            modules: Vec::with_capacity(chosen.len()),
            builtin: BTreeSet::new(),
            builtin_aliases: Vec::new(),
            by_name: BTreeMap::new(),
            base: base.to_owned(),
            source,
        };
        for line in builtin_text.unwrap_or_default().lines() {
            tree.builtin.extend(module_file(line.trim()).map(|(name, _)| normalise_name(name)));
        }
        if let Some(bytes) = tree.source.read_if_any(&below(base, "modules.builtin.modinfo"))? {
            for pair in bytes.split(|b| *b == 0).filter_map(|p| std::str::from_utf8(p).ok()) {
                if let Some((key, pattern)) = pair.split_once('=')
                    && let Some(name) = key.strip_suffix(".alias")
                {
                    tree.builtin_aliases.push((normalise_pattern(pattern), normalise_name(name)));
                }
            }
        }

        for (name, (path, compression)) in chosen {
            let mut module = KernelModule {
                depends: Vec::new(),
                aliases: depmod.aliases.remove(&name).unwrap_or_default(),
                soft_pre: Vec::new(),
                soft_post: Vec::new(),
                weak: depmod.weakdeps.remove(&name).unwrap_or_default(),
                path: path.to_owned(),
                compression,
                name,
            };
            if let Some(depends) = depmod.depends.remove(path) {
                module.depends = depends;
                (module.soft_pre, module.soft_post) =
                    depmod.softdeps.remove(&module.name).unwrap_or_default();
            } else {
                let info = tree.modinfo(path, compression)?;
                tree.learn(&info);
                module.describe(&info);
            }
            tree.modules.push(module);
        }

        let rank: BTreeMap<&str, usize> =
            order.lines().enumerate().map(|(n, path)| (stem(path.trim()), n)).collect();
        tree.modules.sort_by_cached_key(|m| {
            (rank.get(stem(&m.path)).copied().unwrap_or(usize::MAX), m.path.clone())
        });
        let names = tree.modules.iter().enumerate();
        tree.by_name = names.map(|(n, m)| (m.name.clone(), n)).collect();
        if tree.machine == 0
            && let Some(module) = tree.modules.first()
        {
            let info = tree.modinfo(&module.path, module.compression)?;
            tree.learn(&info);
        }
        Ok(tree)
    }

    /// Takes machine and release from the first module that is read.
    fn learn(&mut self, info: &Modinfo) {
        if self.machine == 0 {
            self.machine = info.machine;
            let vermagic = info.values("vermagic").next();
            if let Some(release) = vermagic.and_then(|v| v.split_ascii_whitespace().next()) {
                release.clone_into(&mut self.release);
            }
        }
    }

    /// Number of the module with this name; '-' and '_' are the same.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<usize> {
        self.by_name.get(&normalise_name(name)).copied()
    }

    /// The modules of a name or alias, as `modprobe` would resolve it. `None` if it is unknown;
    /// empty if it is built in.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<Vec<usize>> {
        let name = normalise_name(name);
        if let Some(n) = self.by_name.get(&name) {
            return Some(vec![*n]);
        }
        if self.builtin.contains(&name) {
            return Some(Vec::new());
        }
        let fits = |pattern: &String| fnmatch(pattern.as_bytes(), name.as_bytes());
        let claims =
            |(n, module): (usize, &KernelModule)| module.aliases.iter().any(fits).then_some(n);
        let found: Vec<usize> = self.modules.iter().enumerate().filter_map(claims).collect();
        let known = !found.is_empty() || self.builtin_aliases.iter().any(|(p, _)| fits(p));
        known.then_some(found)
    }

    /// The modules of a soft dependency. If the kernel has a library of that name built in, the
    /// dependency means the algorithm of its crypto interface: f2fs asks for `crc32`, and
    /// cannot mount without `crypto-crc32`.
    #[must_use]
    pub fn wished(&self, name: &str) -> Vec<usize> {
        let found = self.resolve(name).unwrap_or_default();
        if found.is_empty() && self.builtin.contains(&normalise_name(name)) {
            return self.resolve(&format!("crypto-{name}")).unwrap_or_default();
        }
        found
    }

    /// The modules' direct dependencies as numbers. Those that are neither modules nor built in
    /// go to `missing`.
    fn needs(&self, module: &KernelModule, missing: &mut BTreeSet<String>) -> Vec<usize> {
        let mut found = Vec::new();
        for need in &module.depends {
            match self.by_name.get(need) {
                Some(n) => found.push(*n),
                None if self.builtin.contains(need) => {}
                None => drop(missing.insert(format!("{} needs {need}", module.name))),
            }
        }
        found
    }

    /// All dependencies of a module, in load order, without itself. Cycles, which depmod would
    /// refuse, are cut where they close.
    #[must_use]
    pub fn closure(&self, module: usize, missing: &mut BTreeSet<String>) -> Vec<usize> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::from([module]);
        // (module, its dependencies not yet visited)
        let mut stack: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut needs = |n: usize| {
            let mut list = self.modules.get(n).map(|m| self.needs(m, missing)).unwrap_or_default();
            list.reverse();
            list
        };
        stack.push((module, needs(module)));
        while let Some((n, todo)) = stack.last_mut() {
            match todo.pop() {
                Some(next) if seen.insert(next) => {
                    let list = needs(next);
                    stack.push((next, list));
                }
                Some(_) => {}
                None => {
                    if *n != module {
                        order.push(*n);
                    }
                    stack.pop();
                }
            }
        }
        order
    }

    /// The given modules and all their dependencies: hard, soft and weak.
    #[must_use]
    pub fn with_needs(
        &self,
        modules: impl IntoIterator<Item = usize>,
        missing: &mut BTreeSet<String>,
    ) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        let mut todo: Vec<usize> = modules.into_iter().collect();
        while let Some(n) = todo.pop() {
            let Some(module) = self.modules.get(n) else { continue };
            if !all.insert(n) {
                continue;
            }
            todo.extend(self.needs(module, missing));
            let soft = module.soft_pre.iter().chain(&module.soft_post).chain(&module.weak);
            todo.extend(soft.flat_map(|name| self.wished(name)));
        }
        all
    }

    /// Reads a module, decompressed; a signature at its end stays.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Unpack`] for its file.
    pub fn read(&self, module: &KernelModule) -> Result<Vec<u8>, Error> {
        unpack(&module.path, module.compression, self.source.read(&self.within(&module.path))?)
    }

    /// Path of one of its files in the source.
    #[must_use]
    pub fn within(&self, path: &str) -> String {
        below(&self.base, path)
    }

    /// Reads a module's `.modinfo`.
    fn modinfo(&self, path: &str, how: Compression) -> Result<Modinfo, Error> {
        let place = self.within(path);
        if how == Compression::None {
            return self.source.modinfo(&place);
        }
        let data = unpack(path, how, self.source.read(&place)?)?;
        modinfo::read(data.as_slice()).map_err(|source| Error::Module { path: place, source })
    }

    /// The directory it was read from, if it was one.
    #[must_use]
    pub fn dir(&self) -> Option<PathBuf> {
        match &self.source {
            Container::Dir(root) => Some(root.join(&self.base)),
            _ => None,
        }
    }

    /// Reads a firmware file of the same package or image: in `lib/firmware` beside
    /// `lib/modules`. `None` for a directory.
    ///
    /// # Errors
    /// [`Error::Read`] when it exists but cannot be read.
    pub fn firmware(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match (&self.source, self.base.rsplit_once("modules/")) {
            (Container::Dir(_), _) | (_, None) => Ok(None),
            (source, Some((lib, _))) => source.read_if_any(&format!("{lib}firmware/{name}")),
        }
    }
}

/// Where a kernel looks for a firmware file below `lib/firmware`, in its order: plain in
/// each directory first, then packed in each (`drivers/base/firmware_loader/main.c`). Each path with the file's name
/// in `lib/firmware` itself. Nothing for a name that leaves the directory: it comes from a module.
#[must_use]
pub fn firmware_places(release: &str, name: &str) -> Vec<(String, String)> {
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Vec::new();
    }
    let dirs = [format!("updates/{release}/"), "updates/".into(), format!("{release}/"), "".into()];
    let names = ["", ".zst", ".xz"].map(|end| format!("{name}{end}"));
    let place = |name: &String| dirs.clone().map(|dir| (format!("{dir}{name}"), name.clone()));
    names.iter().flat_map(place).collect()
}

/// Names of the firmware files that a module may ask for.
///
/// # Errors
/// [`Error::Module`] when the module is damaged.
pub fn firmware(data: &[u8]) -> Result<Vec<String>, ModinfoError> {
    Ok(modinfo::read(data)?.values("firmware").map(str::to_owned).collect())
}
