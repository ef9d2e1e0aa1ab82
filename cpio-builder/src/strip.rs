//! Shrinks modules.
//!
//! Removed: BTF type information, the ORC tables of the stack unwinder, local symbols that no
//! relocation uses, and the signature, which would be invalid. A module loads and works without
//! them. Lost are BPF's view of it, its part of a stack trace, and loading where signatures are
//! enforced (Secure Boot's lockdown). Therefore never by default.
//!
//! Sections keep their numbers: what is dropped leaves an empty header of
//! type SHT_NULL, which the kernel's loader passes over (`elf_validity_check`
//! and `find_sec` in kernel/module/main.c). So nothing but symbol numbers has
//! to be rewritten. 64-bit little-endian ELF, System V gABI chapters 4.

use sys::bytes::{le16, le32, le64};

/// Sections that a module works without.
const DROPPED: [&[u8]; 5] = [b".BTF", b".orc_unwind", b".orc_unwind_ip", b".comment", b".BTF_ids"];

const SHT_SYMTAB: u32 = 2;
const SHT_STRTAB: u32 = 3;
const SHT_RELA: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHT_REL: u32 = 9;
const SHT_GROUP: u32 = 17;
const SHT_SYMTAB_SHNDX: u32 = 18;
const ET_REL: u16 = 1;

const HEADER: usize = 64;
const SECTION: usize = 64;
const SYMBOL: usize = 24;
const RELA: usize = 24;

/// The smaller module; `None` for an unknown shape, which is better left unchanged.
#[must_use]
pub fn strip(module: &[u8]) -> Option<Vec<u8>> {
    let header = module.get(..HEADER)?;
    if !header.starts_with(b"\x7fELF\x02\x01") || le16(header, 16)? != ET_REL {
        return None;
    }
    let table_at = usize::try_from(le64(header, 0x28)?).ok()?;
    let (entry, count) = (le16(header, 0x3a)?, usize::from(le16(header, 0x3c)?));
    if usize::from(entry) != SECTION {
        return None;
    }
    let table = module.get(table_at..)?.get(..count.checked_mul(SECTION)?)?;
    let mut sections = Vec::with_capacity(count);
    for header in table.chunks_exact(SECTION) {
        sections.push(Section::read(module, header)?);
    }
    let names_at = usize::from(le16(header, 0x3e)?);
    drop_sections(&mut sections, names_at)?;
    shrink_symbols(&mut sections, names_at)?;
    Some(write(header, &sections))
}

/// A section: the relevant header fields, and its content.
#[derive(Clone)]
struct Section {
    header: [u8; SECTION],
    data: Vec<u8>,
}

impl Section {
    fn read(module: &[u8], header: &[u8]) -> Option<Self> {
        let header: [u8; SECTION] = header.try_into().ok()?;
        let mut section = Self { header, data: Vec::new() };
        if !matches!(section.kind(), 0 | SHT_NOBITS) {
            let at = usize::try_from(le64(&header, 0x18)?).ok()?;
            let len = usize::try_from(le64(&header, 0x20)?).ok()?;
            section.data = module.get(at..)?.get(..len)?.to_vec();
        }
        Some(section)
    }

    fn kind(&self) -> u32 {
        le32(&self.header, 4).unwrap_or_default()
    }

    /// `sh_link`: the string table of a symbol table, and so on.
    fn link(&self) -> usize {
        le32(&self.header, 0x28).unwrap_or_default() as usize
    }

    /// `sh_info`: the section that relocations apply to, or the number of
    /// local symbols.
    fn info(&self) -> usize {
        le32(&self.header, 0x2c).unwrap_or_default() as usize
    }

    fn offset(&self) -> u64 {
        le64(&self.header, 0x18).unwrap_or_default()
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(field) = self.header.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    }
}

/// Empties the dropped sections and the relocations that apply to them.
fn drop_sections(sections: &mut [Section], names_at: usize) -> Option<()> {
    let names = sections.get(names_at).filter(|s| s.kind() == SHT_STRTAB)?.data.clone();
    let dropped = |section: &Section| {
        let at = le32(&section.header, 0).unwrap_or_default() as usize;
        let name = names.get(at..).and_then(|n| n.split(|b| *b == 0).next());
        name.is_some_and(|name| DROPPED.contains(&name))
    };
    let mut gone: Vec<bool> = sections.iter().map(dropped).collect();
    for n in 0..sections.len() {
        let section = sections.get(n)?;
        match section.kind() {
            // Shapes that modules do not have, and whose numbers would need
            // rewriting too.
            SHT_REL | SHT_GROUP | SHT_SYMTAB_SHNDX => return None,
            SHT_RELA => *gone.get_mut(n)? |= *gone.get(section.info())?,
            _ => {}
        }
    }
    if *gone.get(names_at)? {
        return None;
    }
    for (section, _) in sections.iter_mut().zip(gone).filter(|(_, gone)| *gone) {
        *section = Section { header: [0; SECTION], data: Vec::new() };
    }
    Some(())
}

/// Drops local symbols that nothing refers to, with their names. Those of the
/// sections, which LLVM may keep in the same table, must stay.
fn shrink_symbols(sections: &mut [Section], section_names: usize) -> Option<()> {
    let mut tables = sections.iter().enumerate().filter(|(_, s)| s.kind() == SHT_SYMTAB);
    let Some((table, symtab)) = tables.next() else { return Some(()) };
    if tables.next().is_some() {
        return None;
    }
    let (strtab, locals) = (symtab.link(), symtab.info());
    if strtab == section_names {
        return None;
    }
    let old_names = sections.get(strtab).filter(|s| s.kind() == SHT_STRTAB)?.data.clone();
    let old = symtab.data.clone();
    let count = old.len() / SYMBOL;

    let mut used = vec![false; count];
    for section in sections.iter().filter(|s| s.kind() == SHT_RELA) {
        for entry in section.data.chunks_exact(RELA) {
            *used.get_mut(le32(entry, 12)? as usize)? = true;
        }
    }
    let mut numbers = vec![0u32; count];
    let (mut symbols, mut names) = (Vec::new(), vec![0]);
    let mut kept = 0u32;
    let mut kept_locals = 0u32;
    for (n, symbol) in old.chunks_exact(SYMBOL).enumerate() {
        if n != 0 && n < locals && !*used.get(n)? {
            continue;
        }
        *numbers.get_mut(n)? = kept;
        kept += 1;
        kept_locals += u32::from(n < locals);
        let name = old_names.get(le32(symbol, 0)? as usize..)?.split(|b| *b == 0).next()?;
        let at = if name.is_empty() { 0 } else { u32::try_from(names.len()).ok()? };
        symbols.extend(at.to_le_bytes());
        symbols.extend(symbol.get(4..)?);
        if at != 0 {
            names.extend(name);
            names.push(0);
        }
    }
    for section in sections.iter_mut().filter(|s| s.kind() == SHT_RELA) {
        for entry in section.data.chunks_exact_mut(RELA) {
            let number = numbers.get(le32(entry, 12)? as usize)?;
            entry.get_mut(12..16)?.copy_from_slice(&number.to_le_bytes());
        }
    }
    let symtab = sections.get_mut(table)?;
    symtab.data = symbols;
    symtab.put(0x2c, &kept_locals.to_le_bytes());
    sections.get_mut(strtab)?.data = names;
    Some(())
}

/// Lays the sections out anew, in the order they had.
fn write(header: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut sections = sections.to_vec();
    let mut order: Vec<usize> = (0..sections.len()).collect();
    order.sort_by_key(|n| (sections.get(*n).map(Section::offset), *n));
    let mut out = header.to_vec();
    for n in order {
        let Some(section) = sections.get_mut(n) else { continue };
        if section.kind() == 0 {
            continue;
        }
        let align = le64(&section.header, 0x30).and_then(|a| usize::try_from(a).ok());
        out.resize(out.len().next_multiple_of(align.unwrap_or(1).clamp(1, 4096)), 0);
        section.put(0x18, &(out.len() as u64).to_le_bytes());
        if section.kind() != SHT_NOBITS {
            section.put(0x20, &(section.data.len() as u64).to_le_bytes());
            out.extend_from_slice(&section.data);
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let table_at = (out.len() as u64).to_le_bytes();
    if let Some(field) = out.get_mut(0x28..0x30) {
        field.copy_from_slice(&table_at);
    }
    out.extend(sections.iter().flat_map(|section| section.header));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbol(name: u32, info: u8, section: u16, value: u64) -> Vec<u8> {
        let mut out = name.to_le_bytes().to_vec();
        out.extend([info, 0]);
        out.extend(section.to_le_bytes());
        out.extend(value.to_le_bytes());
        out.extend(8u64.to_le_bytes());
        out
    }

    fn rela(offset: u64, symbol: u32, kind: u32, addend: i64) -> Vec<u8> {
        let mut out = offset.to_le_bytes().to_vec();
        out.extend(kind.to_le_bytes());
        out.extend(symbol.to_le_bytes());
        out.extend(addend.to_le_bytes());
        out
    }

    /// A module with everything that is dropped and something that is not.
    fn module() -> Vec<u8> {
        let section_names = b"\0.text\0.rela.text\0.BTF\0.orc_unwind_ip\0.rela.orc_unwind_ip\0\
                              .bss\0.symtab\0.strtab\0.shstrtab\0";
        let name = |name: &str| {
            let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
            let at = section_names.windows(wanted.len()).position(|w| w == wanted);
            at.unwrap() as u32 + 1
        };
        let symbols = [
            symbol(0, 0, 0, 0),
            symbol(1, 4, 0xfff1, 0), // a.c, FILE
            symbol(5, 2, 1, 0),      // unused, local function
            symbol(12, 2, 1, 8),     // used, local function
            symbol(0, 3, 1, 0),      // .text, SECTION
            symbol(17, 0x10, 0, 0),  // printk, undefined
            symbol(24, 0x12, 1, 4),  // init_module, global
        ]
        .concat();
        let strings = b"\0a.c\0unused\0used\0printk\0init_module\0";
        let text_rela = [rela(0, 3, 4, -4), rela(8, 5, 2, 6)].concat();
        let orc_rela = [rela(0, 2, 2, 0), rela(4, 4, 2, 0)].concat();
        // Name, type, content, sh_link, sh_info, alignment.
        let sections = [
            (".text", 1, vec![0x90; 16], 0u32, 0u32, 16u64),
            (".rela.text", SHT_RELA, text_rela, 7, 1, 8),
            (".BTF", 1, vec![7; 100], 0, 0, 1),
            (".orc_unwind_ip", 1, vec![1; 8], 0, 0, 4),
            (".rela.orc_unwind_ip", SHT_RELA, orc_rela, 7, 4, 8),
            (".bss", SHT_NOBITS, vec![], 0, 0, 32),
            (".symtab", SHT_SYMTAB, symbols, 8, 5, 8),
            (".strtab", SHT_STRTAB, strings.to_vec(), 0, 0, 1),
            (".shstrtab", SHT_STRTAB, section_names.to_vec(), 0, 0, 1),
        ];
        let mut out = vec![0; HEADER];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[16..20].copy_from_slice(&[1, 0, 62, 0]);
        let mut table = vec![0; SECTION];
        for (label, kind, data, link, info, align) in sections {
            let mut header = name(label).to_le_bytes().to_vec();
            header.extend(kind.to_le_bytes());
            header.extend([0; 16]);
            let size = if kind == SHT_NOBITS { 4096 } else { data.len() as u64 };
            header.extend((out.len() as u64).to_le_bytes());
            header.extend(size.to_le_bytes());
            header.extend(link.to_le_bytes());
            header.extend(info.to_le_bytes());
            header.extend(align.to_le_bytes());
            header.extend((if kind == SHT_RELA { 24u64 } else { 0 }).to_le_bytes());
            table.extend(header);
            out.extend(data);
        }
        let at = out.len() as u64;
        out[0x28..0x30].copy_from_slice(&at.to_le_bytes());
        out[0x3a..0x40].copy_from_slice(&[64, 0, 10, 0, 9, 0]);
        out.extend(table);
        out.extend(b"signature bytes~Module signature appended~\n");
        out
    }

    #[test]
    fn keeps_what_loading_needs() {
        let stripped = strip(&module()).unwrap();
        assert!(stripped.len() + 200 < module().len());
        assert!(!stripped.ends_with(b"appended~\n"));
        let table = le64(&stripped, 0x28).unwrap() as usize;
        let sections: Vec<Section> = stripped[table..]
            .chunks_exact(SECTION)
            .map(|header| Section::read(&stripped, header).unwrap())
            .collect();
        let kinds: Vec<u32> = sections.iter().map(Section::kind).collect();
        assert_eq!(
            kinds,
            [0, 1, SHT_RELA, 0, 0, 0, SHT_NOBITS, SHT_SYMTAB, SHT_STRTAB, SHT_STRTAB]
        );
        assert!(sections[3].header.iter().all(|b| *b == 0));
        assert_eq!(sections[1].data, [0x90; 16]);
        // Alignment, and the size of what takes no room in the file.
        assert_eq!(sections[1].offset() % 16, 0);
        assert_eq!(le64(&sections[6].header, 0x20), Some(4096));

        let name = |n: u32| {
            let at = le32(&sections[7].data[n as usize * SYMBOL..], 0).unwrap() as usize;
            let text = sections[8].data[at..].split(|b| *b == 0).next().unwrap();
            String::from_utf8(text.to_vec()).unwrap()
        };
        let count = sections[7].data.len() / SYMBOL;
        let names: Vec<String> = (0..count as u32).map(name).collect();
        assert_eq!(names, ["", "used", "printk", "init_module"]);
        assert_eq!(sections[7].info(), 2, "first symbol that is not local");
        let targets: Vec<_> = sections[2]
            .data
            .chunks_exact(RELA)
            .map(|r| (le64(r, 0).unwrap(), name(le32(r, 12).unwrap()), le32(r, 8).unwrap()))
            .collect();
        assert_eq!(targets, [(0, "used".to_owned(), 4), (8, "printk".to_owned(), 2)]);
        // The used function is still 8 bytes into .text.
        assert_eq!(sections[7].data[SYMBOL..2 * SYMBOL][4..], symbol(0, 2, 1, 8)[4..]);
        // Doing it again changes nothing.
        assert_eq!(strip(&stripped).unwrap(), stripped);
    }

    #[test]
    fn leaves_alone_what_it_does_not_understand() {
        assert_eq!(strip(b"no module"), None);
        let mut program = module();
        program[16] = 2;
        assert_eq!(strip(&program), None);
        let module = module();
        assert_eq!(strip(&module[..module.len() - 200]), None);
    }

    #[test]
    fn a_module_never_loses_the_names_of_its_sections() {
        let original = module();
        let table = le64(&original, 0x28).unwrap() as usize;
        // The table of symbol names is that of section names too, as LLVM makes it.
        let mut shared = original.clone();
        shared[0x3e] = 8;
        assert_eq!(strip(&shared), None);
        // The table of section names is of no type at all.
        let mut untyped = original.clone();
        untyped[table + 9 * SECTION + 4] = 0;
        assert_eq!(strip(&untyped), None);
        // It has the name of a section that is dropped.
        let mut misnamed = original;
        misnamed.copy_within(table + 3 * SECTION..table + 3 * SECTION + 4, table + 9 * SECTION);
        assert_eq!(strip(&misnamed), None);
    }

    proptest! {
        #[test]
        fn damage_never_panics(flips in proptest::collection::vec((0usize..1600, any::<u8>()), 0..6)) {
            let mut file = module();
            for (at, value) in flips {
                let at = at.min(file.len() - 1);
                file[at] = value;
            }
            let _ = strip(&file);
        }
    }
}
