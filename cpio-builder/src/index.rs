//! Writes the module index that `/init` reads; the format is
//! [`coldplug::index`]'s. The same input gives the same bytes.

use crate::error::Error;
pub use coldplug::index::{Class, Index};
use coldplug::index::{Compression, layout as l, normalise_name, normalise_pattern};
use std::collections::BTreeMap;

/// The index entry of one module. References are positions in [`Builder::modules`].
#[derive(Debug, Clone)]
pub struct ModuleEntry {
    /// Name; written normalised.
    pub name: String,
    /// Path relative to the image's root.
    pub path: String,
    /// Its class.
    pub class: Class,
    /// How its file in the image is compressed.
    pub compression: Compression,
    /// Whether it is blacklisted.
    pub blacklisted: bool,
    /// Parameters.
    pub options: String,
    /// Alias patterns; written normalised.
    pub aliases: Vec<String>,
    /// Closure of hard dependencies in load order.
    pub deps: Vec<usize>,
    /// Soft dependencies before it.
    pub soft_pre: Vec<usize>,
    /// Soft dependencies after it.
    pub soft_post: Vec<usize>,
}

/// An index being put together.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    /// Kernel release.
    pub release: String,
    /// The modules, highest priority first.
    pub modules: Vec<ModuleEntry>,
    /// Names of built-in modules.
    pub builtin: Vec<String>,
}

/// Texts, each stored once.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    at: BTreeMap<String, usize>,
}

impl Strings {
    /// Writes the `(u32 offset, u16 length)` of a text.
    fn put(&mut self, out: &mut Vec<u8>, text: &str) -> Result<(), Error> {
        let at = match self.at.get(text) {
            Some(at) => *at,
            None => {
                let at = self.bytes.len();
                self.bytes.extend_from_slice(text.as_bytes());
                self.at.insert(text.to_owned(), at);
                at
            }
        };
        out.extend(u32_of(at)?.to_le_bytes());
        out.extend(u16_of(text.len())?.to_le_bytes());
        Ok(())
    }
}

fn u16_of(n: usize) -> Result<u16, Error> {
    u16::try_from(n).map_err(|_| Error::Index(format!("{n} does not fit 16 bits")))
}

fn u32_of(n: usize) -> Result<u32, Error> {
    u32::try_from(n).map_err(|_| Error::Index(format!("{n} does not fit 32 bits")))
}

impl Builder {
    /// The bytes of the index.
    ///
    /// # Errors
    /// [`Error::Index`] when a number exceeds the format (65,535 modules, 4 GiB of text, 64 KiB
    /// in one text), two modules have one name, or a reference points past the end.
    pub fn build(&self) -> Result<Vec<u8>, Error> {
        let count = self.modules.len();
        u16_of(count)?;
        let mut strings = Strings::default();
        let mut sections: [Vec<u8>; l::SECTIONS] = Default::default();
        let [release, modules, names, ids, exact, groups, globs, builtin, text] = &mut sections;
        release.extend_from_slice(self.release.as_bytes());

        let mut by_name: BTreeMap<String, u16> = BTreeMap::new();
        let mut literal: Vec<(String, u16)> = Vec::new();
        let mut wild: Vec<(String, u16)> = Vec::new();
        for (n, module) in self.modules.iter().enumerate() {
            let id = u16_of(n)?;
            let name = normalise_name(&module.name);
            strings.put(modules, &name)?;
            modules.extend(module.class.0.to_le_bytes());
            strings.put(modules, &module.path)?;
            modules.push(module.compression.to_byte());
            modules.push(if module.blacklisted { l::FLAG_BLACKLISTED } else { 0 });
            modules.extend(u32_of(ids.len() / 2)?.to_le_bytes());
            for list in [&module.deps, &module.soft_pre, &module.soft_post] {
                modules.extend(u16_of(list.len())?.to_le_bytes());
                for other in list {
                    if *other >= count {
                        return Err(Error::Index(format!("{name} refers to no module")));
                    }
                    ids.extend(u16_of(*other)?.to_le_bytes());
                }
            }
            strings.put(modules, &module.options)?;
            for alias in &module.aliases {
                let alias = normalise_pattern(alias);
                let wildcard = l::literal_prefix(alias.as_bytes()).len() < alias.len();
                if wildcard { &mut wild } else { &mut literal }.push((alias, id));
            }
            if by_name.insert(name, id).is_some() {
                return Err(Error::Index(format!("two modules are called {}", module.name)));
            }
        }
        names.extend(by_name.values().flat_map(|id| id.to_le_bytes()));

        literal.sort_unstable();
        literal.dedup();
        for (alias, id) in &literal {
            strings.put(exact, alias)?;
            exact.extend(id.to_le_bytes());
        }

        wild_aliases(wild, &mut strings, (groups, globs))?;

        let mut known: Vec<String> = self.builtin.iter().map(|n| normalise_name(n)).collect();
        known.sort_unstable();
        known.dedup();
        for name in &known {
            strings.put(builtin, name)?;
        }
        text.extend(strings.bytes);

        layout(&sections)
    }
}

/// Writes the patterns by groups that begin with the same letters, so that a search looks at few.
fn wild_aliases(
    mut wild: Vec<(String, u16)>,
    strings: &mut Strings,
    (groups, globs): (&mut Vec<u8>, &mut Vec<u8>),
) -> Result<(), Error> {
    let group_of = |alias: &str| {
        let literal = l::literal_prefix(alias.as_bytes());
        (l::group_key(literal), literal.len())
    };
    wild.sort_unstable_by(|(a, id_a), (b, id_b)| {
        (group_of(a), a, id_a).cmp(&(group_of(b), b, id_b))
    });
    wild.dedup();
    let mut first = 0;
    for run in wild.chunk_by(|(a, _), (b, _)| group_of(a) == group_of(b)) {
        let Some((alias, _)) = run.first() else { continue };
        let (key, literal) = group_of(alias);
        groups.extend(key);
        for n in [literal, first, run.len()] {
            groups.extend(u32_of(n)?.to_le_bytes());
        }
        first += run.len();
    }
    for (alias, id) in &wild {
        strings.put(globs, alias)?;
        globs.extend(id.to_le_bytes());
    }
    Ok(())
}

/// The file: its head, the table of sections, and the sections.
fn layout(sections: &[Vec<u8>; l::SECTIONS]) -> Result<Vec<u8>, Error> {
    let mut table = Vec::new();
    let mut body = Vec::new();
    for (section, record) in sections.iter().zip(l::RECORD) {
        table.extend(u32_of(l::HEADER + body.len())?.to_le_bytes());
        table.extend(u32_of(section.len() / record)?.to_le_bytes());
        body.extend_from_slice(section);
    }
    table.extend(body);
    let mut out = l::MAGIC.to_vec();
    out.extend(l::VERSION.to_le_bytes());
    out.extend(u32_of(l::SECTIONS_AT + table.len())?.to_le_bytes());
    out.extend(l::checksum(&table).to_le_bytes());
    out.extend(table);
    Ok(out)
}
