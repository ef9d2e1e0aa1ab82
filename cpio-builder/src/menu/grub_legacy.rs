//! Menus of GRUB 0.97 and GRUB4DOS (`menu.lst`, `grub.conf`), by GRUB's manual of 0.97. Entries
//! are titles with commands below them; conditions of GRUB4DOS are not run.

use std::collections::BTreeMap;

use super::model::{ENTRIES_MAX, Entry, FILE_MAX, Files, LINE_MAX, Load, Menu, is_no_kernel};

/// Reads a menu.
pub(super) fn read(text: &str, load: Load<'_>) -> Menu {
    let mut legacy = Legacy::default();
    let first = legacy.file(text, load, 0);
    match first {
        Some(Item::Entry(n)) => legacy.menu.default = n,
        Some(Item::Foreign(title)) => legacy.menu.starts_otherwise(&title),
        None => {}
    }
    legacy.menu
}

/// Whether a text has titles of these loaders, and none of the others' entries.
pub(super) fn is_menu(text: &str) -> bool {
    let mut titles = false;
    for word in text.lines().filter_map(|line| line.split_whitespace().next()) {
        match word.to_ascii_lowercase().as_str() {
            "title" | "iftitle" => titles = true,
            "menuentry" | "submenu" | "label" => return false,
            _ => {}
        }
    }
    titles
}

#[derive(Clone)]
enum Item {
    /// A Linux entry's position.
    Entry(usize),
    /// The title of one that starts no kernel.
    Foreign(String),
}

#[derive(Default)]
struct Legacy {
    menu: Menu,
    files: Files,
    variables: BTreeMap<String, String>,
}

/// An entry that is being read.
#[derive(Default)]
struct Open {
    entry: Entry,
    /// It starts another kernel's modules.
    modules: bool,
    /// The menu file that it leads to.
    config: Option<String>,
}

impl Legacy {
    /// Reads a file; returns what it starts when no key is pressed.
    fn file(&mut self, text: &str, load: Load<'_>, depth: usize) -> Option<Item> {
        let text = text.get(..text.floor_char_boundary(FILE_MAX)).unwrap_or_default();
        if !self.files.begin(text, &mut self.menu) {
            return None;
        }
        let mut items = Vec::new();
        let mut default = 0;
        let mut open: Option<Open> = None;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '!'])) {
            let line = self.filled(line);
            let (word, rest) = command(&line);
            match (word.as_str(), &mut open) {
                ("title" | "iftitle", _) => {
                    self.end(open.take(), load, depth, &mut items);
                    // A condition stands in front, help behind `\n`.
                    let rest = match (word.as_str(), rest.split_once(']')) {
                        ("iftitle", Some((_, title))) => title,
                        _ => rest,
                    };
                    let title = rest.split("\\n").next().unwrap_or_default().trim();
                    let id = format!("entry{}", self.menu.entries.len() + 1);
                    let entry = Entry { id, title: title.to_owned(), ..Entry::default() };
                    open = Some(Open { entry, ..Open::default() });
                }
                ("default", None) => default = rest.parse().unwrap_or(0),
                ("timeout", None) if depth == 0 => self.menu.timeout = rest.parse().ok(),
                ("set", _) => {
                    if let Some((name, value)) = rest.split_once('=')
                        && self.variables.len() < ENTRIES_MAX
                    {
                        self.variables.insert(name.trim().to_ascii_lowercase(), value.into());
                    }
                }
                ("kernel", Some(at)) => {
                    let mut rest = rest;
                    while let Some((option, more)) = rest.split_once(char::is_whitespace)
                        && option.starts_with("--")
                    {
                        rest = more.trim_start();
                    }
                    let (path, line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                    path.clone_into(&mut at.entry.kernel);
                    line.trim().clone_into(&mut at.entry.append);
                }
                ("initrd", Some(at)) => {
                    let path = |word: &str| match word.strip_prefix('@') {
                        Some(named) => named.rsplit('=').next().unwrap_or(named).to_owned(),
                        None => word.to_owned(),
                    };
                    at.entry.initrd = rest.split_whitespace().map(path).collect();
                }
                // PMON's, on Loongson machines.
                ("args", Some(at)) => rest.clone_into(&mut at.entry.append),
                ("module" | "modulenounzip", Some(at)) => at.modules = true,
                ("configfile", Some(at)) => at.config = Some(rest.to_owned()),
                _ => {}
            }
        }
        self.end(open.take(), load, depth, &mut items);
        self.files.end();
        items.get(default).or(items.first()).cloned()
    }

    /// An entry is read.
    fn end(&mut self, open: Option<Open>, load: Load<'_>, depth: usize, items: &mut Vec<Item>) {
        let Some(Open { entry, modules, config }) = open else { return };
        if items.len() >= 2 * ENTRIES_MAX {
            return;
        }
        let foreign = Item::Foreign(entry.title.clone());
        let starts = !entry.kernel.is_empty() && !modules && !is_no_kernel(&entry.kernel);
        items.push(if starts && self.menu.add(entry) {
            Item::Entry(self.menu.entries.len() - 1)
        } else {
            let none = BTreeMap::new();
            let more = config.filter(|_| depth < 8 && !starts).and_then(|name| {
                Some((load(&name).filter(|more| !self.files.knows(more, &none))?, name))
            });
            let inner = more.and_then(|(more, name)| {
                self.menu.note(format!("an entry leads to the menu {name}, whose entries follow"));
                self.file(&more, load, depth + 1)
            });
            inner.unwrap_or(foreign)
        });
    }

    /// The line with the variables of GRUB4DOS that the menu sets.
    fn filled(&self, line: &str) -> String {
        let (mut out, mut rest) = (String::new(), line);
        while let Some((before, more)) = rest.split_once('%') {
            out.push_str(before);
            let named = more.split_once('%').and_then(|(name, after)| {
                Some((self.variables.get(&name.to_ascii_lowercase())?, after))
            });
            rest = match named {
                Some((value, after)) if out.len() + value.len() <= LINE_MAX => {
                    out.push_str(value);
                    after
                }
                _ => {
                    out.push('%');
                    more
                }
            };
        }
        out.push_str(rest);
        out
    }
}

/// The command of a line, and what is behind it. Behind the condition of an `if` stands the
/// command that it is for.
fn command(line: &str) -> (String, &str) {
    let ends = |c: char| c.is_whitespace() || c == '=';
    let (word, rest) = line.split_once(ends).unwrap_or((line, ""));
    let rest = rest.trim_start_matches(ends).trim_end();
    let word = word.to_ascii_lowercase();
    if word == "if" {
        for inner in ["kernel", "initrd", "configfile", "set"] {
            if let Some((_, rest)) = rest.split_once(&format!(" {inner} ")) {
                return (inner.to_owned(), rest.trim());
            }
        }
    }
    (word, rest)
}
