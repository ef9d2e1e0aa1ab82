//! Menus of SYSLINUX (isolinux, pxelinux, extlinux), by its wiki's "Config" page. Of `.c32`
//! programs only menus are followed; chain loading and local boot are skipped.

use std::collections::BTreeMap;

use super::model::{ENTRIES_MAX, Entry, FILE_MAX, FILES_MAX, Files, Load, Menu, is_no_kernel};

/// Reads a menu.
pub(super) fn read(text: &str, load: Load<'_>) -> Menu {
    Syslinux::default().read(text, load)
}

/// State of reading SYSLINUX files.
struct Syslinux {
    menu: Menu,
    append: String,
    entry: Option<SyslinuxEntry>,
    files: Files,
    in_text: bool,
    /// The menus: of the file, of MENU BEGIN, and of files that an entry leads to.
    levels: Vec<Level>,
    /// The open ones; the first belongs to the file.
    open: Vec<usize>,
    /// Every label, as menu.c32 finds it.
    labels: Vec<(String, Item)>,
    /// What SYSAPPEND says for all entries.
    sysappend: u32,
    /// Menu files that an entry leads to, and their levels.
    further: Vec<(String, usize)>,
    /// PROMPT 1: the boot loader waits even without a menu.
    prompt: bool,
}

impl Default for Syslinux {
    fn default() -> Self {
        Self {
            menu: Menu::default(),
            append: String::new(),
            entry: None,
            files: Files::default(),
            in_text: false,
            levels: vec![Level::default()],
            open: vec![0],
            labels: Vec::new(),
            sysappend: 0,
            further: Vec::new(),
            prompt: false,
        }
    }
}

/// One menu of SYSLINUX, and what says which of its items starts by itself.
#[derive(Default)]
struct Level {
    items: Vec<Item>,
    /// ONTIMEOUT, the strongest.
    ontimeout: Option<String>,
    /// DEFAULT with a label: stronger than MENU DEFAULT unless DEFAULT also names the menu.
    default: Option<String>,
    /// MENU DEFAULT.
    marked: Option<usize>,
    /// A UI line.
    ui: bool,
    /// DEFAULT names a menu program.
    program: bool,
    /// Where MENU START is.
    start: Option<usize>,
}

impl Level {
    fn says_what_starts(&self) -> bool {
        let named = self.default.is_some() || self.ontimeout.is_some();
        named || self.ui || self.program || self.marked.is_some() || self.start.is_some()
    }
}

#[derive(Clone)]
enum Item {
    /// A Linux entry's position.
    Entry(usize),
    /// The name of an entry that starts no kernel.
    Foreign(String),
    /// A menu.
    Menu(usize),
    /// A label that whichsys.c32 goes to on a disc, or ifcpu64.c32.
    Label(String),
}

#[derive(Default)]
struct SyslinuxEntry {
    entry: Entry,
    append: Option<String>,
    /// Words behind the kernel's name.
    words: String,
    sysappend: Option<u32>,
    foreign: bool,
    default: bool,
    /// The menu file of CONFIG.
    config: Option<String>,
}

impl Syslinux {
    fn read(mut self, text: &str, load: Load<'_>) -> Menu {
        let none = BTreeMap::new();
        self.files.knows(text, &none);
        self.file(text, load, 0);
        self.end_entry();
        if !self.levels.first().is_some_and(|root| root.ui || root.program) && !self.prompt {
            // Without a menu and a prompt, SYSLINUX does not wait.
            self.menu.timeout = Some(0);
        }
        let mut next = 0;
        while let Some((name, level)) = self.further.get(next).cloned() {
            next += 1;
            let Some(more) = load(&name).filter(|more| !self.files.knows(more, &none)) else {
                continue;
            };
            self.menu.note(format!("an entry leads to the menu {name}, whose entries follow"));
            self.open = vec![level];
            self.file(&more, load, 1);
            self.end_entry();
        }
        let says = self.levels.first().is_some_and(Level::says_what_starts);
        if !says && !self.menu.entries.is_empty() {
            let note = "neither DEFAULT nor UI: SYSLINUX stops at its prompt, starting nothing";
            self.menu.note(note.to_owned());
            self.menu.other_default = true;
        }
        match self.starts(0, 0) {
            Some(Item::Entry(n)) => self.menu.default = n,
            Some(Item::Foreign(name) | Item::Label(name)) => self.menu.starts_otherwise(&name),
            Some(Item::Menu(_)) => self.menu.other_default = true,
            None => {}
        }
        self.menu
    }

    /// What starts in a menu when no key is pressed.
    fn starts(&self, level: usize, depth: usize) -> Option<Item> {
        let menu = self.levels.get(level)?;
        let first = || menu.items.get(menu.marked.unwrap_or(0)).cloned();
        let label = |name: &String| {
            let found = self.labels.iter().find(|(label, _)| label.eq_ignore_ascii_case(name));
            found.map_or_else(|| Item::Foreign(name.clone()), |(_, item)| item.clone())
        };
        let default = menu.default.as_ref().filter(|_| {
            menu.ui || !menu.program || (menu.marked.is_none() && menu.start.is_none())
        });
        let item = match (menu.ontimeout.as_ref().or(default), menu.start) {
            (Some(name), _) => Some(label(name)),
            (None, Some(start)) if start != level => Some(Item::Menu(start)),
            (None, _) => first(),
        };
        match item {
            Some(Item::Label(name)) if depth < 8 => match label(&name) {
                Item::Menu(to) => self.starts(to, depth + 1),
                item => Some(item),
            },
            Some(Item::Menu(to)) if depth < 8 => self.starts(to, depth + 1),
            item => item,
        }
    }

    fn level(&mut self) -> Option<&mut Level> {
        self.open.last().and_then(|n| self.levels.get_mut(*n))
    }

    fn root(&mut self) -> Option<&mut Level> {
        self.open.first().and_then(|n| self.levels.get_mut(*n))
    }

    /// An item of the open menu; `default` as MENU DEFAULT says.
    fn item(&mut self, label: &str, item: Item, default: bool) {
        if self.labels.len() >= 2 * ENTRIES_MAX {
            return;
        }
        self.labels.push((label.to_owned(), item.clone()));
        if let Some(level) = self.level() {
            if default {
                level.marked = Some(level.items.len());
            }
            level.items.push(item);
        }
    }

    fn file(&mut self, text: &str, load: Load<'_>, depth: usize) {
        let text = text.get(..text.floor_char_boundary(FILE_MAX)).unwrap_or_default();
        if !self.files.begin(text, &mut self.menu) {
            return;
        }
        for line in text.lines().map(str::trim) {
            if line.ends_with('\\') && !self.in_text {
                self.menu.note(format!(
                    "SYSLINUX does not join lines: what follows '{}' is not part of it",
                    line.get(line.floor_char_boundary(line.len().saturating_sub(40))..)
                        .unwrap_or_default()
                ));
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            let word = word.to_ascii_lowercase();
            if self.in_text {
                self.in_text = word != "endtext";
                continue;
            }
            let (word, rest) = match (word.as_str(), rest.split_once(char::is_whitespace)) {
                ("menu", Some((sub, rest))) => {
                    (format!("menu {}", sub.to_ascii_lowercase()), rest.trim())
                }
                ("menu", None) => (format!("menu {}", rest.to_ascii_lowercase()), ""),
                _ => (word, rest),
            };
            if matches!(word.as_str(), "include" | "menu include") {
                // MENU INCLUDE may have a tag behind the name.
                let name = rest.split_whitespace().next().unwrap_or_default();
                if depth < 8
                    && let Some(more) = load(name)
                {
                    self.file(&more, load, depth + 1);
                }
                continue;
            }
            self.line(&word, rest);
        }
        self.files.end();
    }

    fn line(&mut self, word: &str, rest: &str) {
        match (word, &mut self.entry) {
            ("text", _) => self.in_text = rest.eq_ignore_ascii_case("help"),
            ("label", _) => {
                self.end_entry();
                let entry = Entry { id: rest.to_owned(), ..Entry::default() };
                self.entry = Some(SyslinuxEntry { entry, ..SyslinuxEntry::default() });
            }
            ("menu begin", _) => {
                self.end_entry();
                let inner = self.levels.len();
                if inner < ENTRIES_MAX {
                    self.item(rest, Item::Menu(inner), false);
                    self.levels.push(Level::default());
                    self.open.push(inner);
                }
            }
            ("menu end", _) => {
                self.end_entry();
                if self.open.len() > 1 {
                    self.open.pop();
                }
            }
            ("menu default", None) if self.open.len() > 1 => {
                let inner = self.open.pop().unwrap_or_default();
                if let Some(level) = self.level() {
                    let is_it = |item: &Item| matches!(item, Item::Menu(n) if *n == inner);
                    level.marked = level.items.iter().position(is_it);
                }
                self.open.push(inner);
            }
            ("menu start", _) => {
                let here = self.open.last().copied();
                if let Some(root) = self.root() {
                    root.start = here;
                }
            }
            ("ui", _) => self.root().into_iter().for_each(|root| root.ui = true),
            ("prompt", _) => self.prompt |= rest != "0",
            ("menu title", None) if self.open == [0] => self.menu.title = unmarked(rest),
            ("timeout", _) if self.open == [0] => {
                let tenths: u32 = rest.parse().unwrap_or(0);
                self.menu.timeout = (tenths > 0).then_some(tenths / 10);
            }
            ("ontimeout", _) => {
                let label = rest.split_whitespace().next().map(str::to_owned);
                self.level().into_iter().for_each(|level| level.ontimeout.clone_from(&label));
            }
            ("default", _) => {
                let first = rest.split_whitespace().next().unwrap_or_default().to_owned();
                // DEFAULT may also name the menu program.
                let program = first.to_ascii_lowercase().ends_with(".c32");
                match self.root() {
                    Some(root) if program => root.program = true,
                    Some(root) => root.default = Some(first),
                    None => {}
                }
            }
            ("sysappend" | "ipappend", None) => self.sysappend = number(rest),
            ("sysappend" | "ipappend", Some(at)) => at.sysappend = Some(number(rest)),
            ("config", Some(at)) => {
                at.foreign = true;
                at.config = rest.split_whitespace().next().map(str::to_owned);
            }
            ("append", None) => self.append = rest.to_owned(),
            ("append", Some(at)) => at.append = Some(rest.to_owned()),
            ("menu label", Some(at)) => at.entry.title = unmarked(rest),
            ("menu default", Some(at)) => at.default = true,
            ("linux", Some(at)) => at.kernel(rest, true),
            ("kernel", Some(at)) => at.kernel(rest, false),
            ("initrd", Some(at)) => at.entry.initrd = paths(rest),
            ("com32", Some(at)) => {
                at.foreign = true;
                rest.clone_into(&mut at.entry.kernel);
            }
            ("localboot" | "boot" | "bss" | "pxe" | "fdimage" | "comboot", Some(at)) => {
                at.foreign = true;
            }
            _ => {}
        }
    }

    fn end_entry(&mut self) {
        let Some(SyslinuxEntry {
            mut entry,
            append,
            words,
            sysappend,
            mut foreign,
            default,
            config,
        }) = self.entry.take()
        else {
            return;
        };
        let has_words = append.as_ref().is_some_and(|append| !append.is_empty());
        // Such a name is a kernel's with an EFI stub, or another program's of the firmware.
        foreign |= entry.kernel.to_ascii_lowercase().ends_with(".efi")
            && entry.initrd.is_empty()
            && !has_words;
        if foreign || entry.kernel.is_empty() {
            let arguments = append.as_deref().unwrap_or_default();
            let mut words = arguments.split_whitespace();
            let files = match config {
                Some(file) => vec![file],
                None if entry.kernel.ends_with("menu.c32") => {
                    words.by_ref().filter(|file| *file != "~").map(str::to_owned).collect()
                }
                None => Vec::new(),
            };
            // ifcpu64.c32 goes to the label for 64 bits, which comes first.
            let disc = match entry.kernel.rsplit('/').next() {
                Some("ifcpu64.c32") => words.next(),
                _ => words.skip_while(|word| *word != "-iso-").nth(1),
            };
            if entry.kernel.ends_with("menu.c32") && files.is_empty() {
                self.root().into_iter().for_each(|root| root.program = true);
            }
            let item = match (files.is_empty(), disc) {
                (true, Some(label)) => Item::Label(label.to_owned()),
                (true, None) => Item::Foreign(entry.id.clone()),
                (false, _) => Item::Menu(self.levels.len()),
            };
            self.item(&entry.id, item, default);
            for file in files {
                if self.further.len() < FILES_MAX {
                    self.further.push((file, self.levels.len()));
                    self.levels.push(Level::default());
                }
            }
            return;
        }
        for (bit, what) in [(1, "ip=CLIENT:SERVER:GATEWAY:MASK"), (2, "BOOTIF=01-MAC")] {
            if sysappend.unwrap_or(self.sysappend) & bit != 0 {
                self.menu.note(format!("to the line of {} pxelinux adds {what}", entry.id));
            }
        }
        let append = append.unwrap_or_else(|| self.append.clone());
        let mut kept: Vec<&str> = words.split_whitespace().collect();
        for word in append.split_whitespace().filter(|word| *word != "-") {
            // Only the boot loader uses this word; the kernel ignores it.
            match word.strip_prefix("initrd=") {
                Some(list) => entry.initrd = paths(list),
                None => kept.push(word),
            }
        }
        entry.append = kept.join(" ");
        let id = entry.id.clone();
        let item = match self.menu.add(entry) {
            true => Item::Entry(self.menu.entries.len() - 1),
            false => Item::Foreign(id.clone()),
        };
        self.item(&id, item, default);
    }
}

impl SyslinuxEntry {
    fn kernel(&mut self, path: &str, surely: bool) {
        let (path, words) = path.split_once(char::is_whitespace).unwrap_or((path, ""));
        words.clone_into(&mut self.words);
        let lower = path.to_ascii_lowercase();
        let other = [".c32", ".0", ".bin", ".bss", ".bs", ".img", ".com", ".cbt"];
        self.foreign =
            is_no_kernel(path) || !surely && other.iter().any(|end| lower.ends_with(end));
        path.clone_into(&mut self.entry.kernel);
    }
}

/// A label without the mark of its shortcut key: `^Live` is shown as "Live".
fn unmarked(text: &str) -> String {
    text.replacen('^', "", 1)
}

/// A number as SYSLINUX writes it, also `0x3ffff`.
fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap_or(0),
        None => text.parse().unwrap_or(0),
    }
}

fn paths(list: &str) -> Vec<String> {
    list.split([',', ' ']).filter(|p| !p.is_empty()).map(str::to_owned).collect()
}
