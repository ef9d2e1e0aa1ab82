//! Menus of GRUB 2, by its manual's "Shell-like scripting". No interpreter: both branches of an
//! `if` count unless it asks for a file of the medium, loops and functions are gone through within bounds.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::str::Chars;

use super::model::{ENTRIES_MAX, Entry, FILE_MAX, Files, LINE_MAX, Load, Menu, is_no_kernel};

/// Most bytes of GRUB commands that are gone through: loops and functions repeat them.
const WORK_MAX: usize = 8 << 20;

/// A path without the variable that it begins with: `${prefix}/x.cfg` is looked for as `/x.cfg`.
fn after_variable(path: &str) -> &str {
    path.strip_prefix("${").and_then(|rest| rest.split_once('}')).map_or(path, |(_, path)| path)
}

/// The text up to the word that ends this block, past words that open others in it. Quotes,
/// comments and `${…}` count as they do in GRUB.
fn block(chars: &mut Peekable<Chars<'_>>, opening: &[&str], closing: &str) -> String {
    let mut text = String::new();
    let mut word = String::new();
    let mut depth = 0;
    let mut quote = None;
    // `for` is a word of its own only where a command begins.
    let mut begins = true;
    while let Some(c) = chars.next() {
        text.push(c);
        match (c, quote) {
            (c, Some(open)) => {
                if c == open {
                    quote = None;
                } else if c == '\\' && open == '"' {
                    text.extend(chars.next());
                }
            }
            ('\\', _) => text.extend(chars.next()),
            ('\'' | '"', _) => {
                quote = Some(c);
                word.push(c);
            }
            ('$', _) if chars.peek() == Some(&'{') => {
                word.push(c);
                while let Some(c) = chars.next_if(|c| *c != '\n') {
                    text.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            ('{', _) if closing == "}" => {
                depth += 1;
                begins = true;
                word.clear();
            }
            ('#', _) if word.is_empty() => {
                text.pop();
                while chars.next_if(|c| *c != '\n').is_some() {}
            }
            (c, _) if c.is_whitespace() || c == ';' || (c == '}' && closing == "}") => {
                let ends = if c == '}' { "}" } else { word.as_str() };
                if ends == closing && (begins || closing == "}") {
                    if depth == 0 {
                        text.truncate(text.len() - c.len_utf8());
                        let end = text.len() - if c == '}' { 0 } else { closing.len() };
                        text.truncate(end);
                        return text;
                    }
                    depth -= 1;
                } else if opening.contains(&ends) && (begins || closing == "}") {
                    depth += 1;
                }
                let leads = matches!(ends, "do" | "then" | "else" | "" | "{");
                begins = matches!(c, '\n' | ';') || (begins && leads);
                word.clear();
            }
            (c, _) => word.push(c),
        }
    }
    if word == closing && depth == 0 {
        text.truncate(text.len() - closing.len());
    }
    text
}

/// Reads a menu; `keep` leaves variables that it does not set as `${name}`.
pub(super) fn read(text: &str, load: Load<'_>, keep: bool) -> Menu {
    Grub { keep, ..Grub::default() }.read(text, load)
}

/// Goes on, or ends at a bound.
type Flow = ControlFlow<()>;

/// A branch of an `if` whose condition may be known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Branch {
    /// Only the loader knows it: all branches count.
    Open,
    /// This one counts, and none that follows.
    Taken,
    /// None has counted so far.
    Waiting,
    /// One before has counted.
    Past,
}

impl Branch {
    fn when(holds: Option<bool>) -> Self {
        match holds {
            Some(true) => Self::Taken,
            Some(false) => Self::Waiting,
            None => Self::Open,
        }
    }
}

/// What GRUB's menu shows.
struct GrubItem {
    /// Its position in its menu, behind those of the submenus that it is in.
    place: Vec<usize>,
    id: String,
    title: String,
    /// Its position in `menu.entries` if it starts a kernel.
    entry: Option<usize>,
}

/// State of reading GRUB files.
#[derive(Default)]
struct Grub {
    menu: Menu,
    variables: BTreeMap<String, String>,
    entry: Option<Entry>,
    files: Files,
    /// Open blocks.
    depth: usize,
    items: Vec<GrubItem>,
    /// The place of the submenu that is open.
    submenu: Vec<usize>,
    /// Variables that nothing sets stay.
    keep: bool,
    functions: BTreeMap<String, String>,
    /// Bytes of functions and loops that were gone through.
    work: usize,
}

impl Grub {
    fn read(mut self, text: &str, load: Load<'_>) -> Menu {
        let mut end = self.file(text, load, 0);
        self.end_entry();
        if end.is_continue() {
            end = self.uncalled(load);
        }
        if end.is_break() {
            self.menu.cut("it has too many entries, or loops without an end");
        }
        let default = self.variables.get("default").map_or("", String::as_str);
        if let Some(item) = self.starts(default) {
            match item.entry {
                Some(n) if n < self.menu.entries.len() => self.menu.default = n,
                _ => {
                    let title = item.title.clone();
                    self.menu.starts_otherwise(&title);
                }
            }
        }
        let timeout = self.variables.get("timeout").and_then(|t| t.parse::<i64>().ok());
        self.menu.timeout = timeout.and_then(|t| u32::try_from(t).ok());
        self.menu
    }

    /// People see the entries of functions of a menu that has no others: another file, or a name
    /// made of variables, calls these.
    fn uncalled(&mut self, load: Load<'_>) -> Flow {
        let none = self.menu.entries.is_empty() && self.entry.is_none();
        if !self.keep || !none {
            return Flow::Continue(());
        }
        for body in std::mem::take(&mut self.functions).into_values() {
            self.depth = 0;
            self.end_entry();
            self.arguments((1..10).map(|n| format!("${{{n}}}")).collect());
            self.body(&body, load, 1)?;
        }
        self.end_entry();
        if !self.menu.entries.is_empty() {
            self.menu.note("the entries stand in functions that nothing here calls by name".into());
        }
        Flow::Continue(())
    }

    /// The item that a value of `default` starts: a number, an id or a title; for each submenu
    /// one of its own, with `>` between them. What is not there means the first item.
    fn starts(&self, default: &str) -> Option<&GrubItem> {
        let item_of = |place: &[usize], name: &str| {
            let numbered = name.parse::<usize>().ok();
            self.below(place)
                .find(|item| item.id == name || item.title == name)
                .or_else(|| self.below(place).find(|item| item.place.last().copied() == numbered))
                .or_else(|| self.below(place).next().filter(|_| !self.menu.cut))
        };
        // A title has `>>` for `>`.
        let default = default.replace(">>", "\0");
        let mut names = default.split('>').map(|name| name.replace('\0', ">"));
        let mut item = item_of(&[], &names.next().unwrap_or_default())?;
        while let Some(inner) = item_of(&item.place, &names.next().unwrap_or_default()) {
            item = inner;
        }
        Some(item)
    }

    /// The items of the menu at this place.
    fn below(&self, place: &[usize]) -> impl Iterator<Item = &GrubItem> {
        self.items.iter().filter(move |item| {
            item.place.len() == place.len() + 1 && item.place.starts_with(place)
        })
    }

    fn file(&mut self, text: &str, load: Load<'_>, nesting: usize) -> Flow {
        let text = text.get(..text.floor_char_boundary(FILE_MAX)).unwrap_or_default();
        if self.files.begin(text, &mut self.menu) {
            self.body(text, load, nesting)?;
            self.files.end();
        }
        Flow::Continue(())
    }

    /// Goes through commands: a file, a function's, or a loop's.
    fn body(&mut self, text: &str, load: Load<'_>, nesting: usize) -> Flow {
        self.work += text.len();
        if self.work > WORK_MAX {
            return Flow::Break(());
        }
        let mut chars = text.chars().peekable();
        let mut branches: Vec<Branch> = Vec::new();
        while chars.peek().is_some() {
            let raw = chars.clone();
            let (words, opens) = self.command(&mut chars);
            let depth = self.depth;
            self.depth += usize::from(opens);
            let mut words = words.iter().map(String::as_str);
            let Some(mut first) = words.next() else { continue };
            // Arguments of an earlier command on the line.
            while matches!(first, "if" | "then" | "else" | "elif" | "{" | "}" | "do" | "fi" | "!") {
                let out = branches.iter().any(|b| matches!(b, Branch::Waiting | Branch::Past));
                let mut holds = || self.holds(words.clone().collect(), raw.clone(), load);
                if first == "if" && branches.len() < ENTRIES_MAX {
                    branches.push(if out { Branch::Past } else { Branch::when(holds()) });
                } else if first == "fi" {
                    branches.pop();
                } else if first == "}" {
                    self.end_entry();
                    self.depth = self.depth.saturating_sub(1);
                } else if let Some(last) = branches.last_mut() {
                    *last = match (first, *last) {
                        ("elif", Branch::Waiting) => Branch::when(holds()),
                        ("else", Branch::Waiting) => Branch::Taken,
                        ("elif" | "else", Branch::Taken) => Branch::Past,
                        (_, same) => same,
                    };
                }
                match words.next() {
                    Some(word) => first = word,
                    None => break,
                }
            }
            let out = branches.iter().any(|b| matches!(b, Branch::Waiting | Branch::Past));
            match first {
                "function" if out && opens => {
                    self.depth = depth;
                    block(&mut chars, &["{"], "}");
                }
                "for" if out => drop(block(&mut chars, &["for", "while", "until"], "done")),
                _ if out => {}
                "source" | "configfile" | "." | "extract_entries_source" if nesting < 8 => {
                    let more = words.next().map(after_variable).and_then(&mut *load);
                    let mut known = |more: &str| {
                        first == "configfile" && self.files.knows(more, &self.variables)
                    };
                    if let Some(more) = more.filter(|more| !known(more)) {
                        self.file(&more, load, nesting + 1)?;
                    }
                }
                "function" if opens => {
                    self.depth = depth;
                    let body = block(&mut chars, &["{"], "}");
                    if let Some(name) = words.next()
                        && self.functions.len() < ENTRIES_MAX
                    {
                        self.functions.insert(name.to_owned(), body);
                    }
                }
                "for" => {
                    let body = block(&mut chars, &["for", "while", "until"], "done");
                    let name = words.next().unwrap_or_default().to_owned();
                    for item in words.skip(1).filter(|_| nesting < 8) {
                        // Which files a pattern means, only the loader knows.
                        if item.contains(['*', '?', '[']) {
                            self.variables.remove(&name);
                        } else {
                            self.set(&name, item);
                        }
                        self.body(&body, load, nesting + 1)?;
                    }
                }
                // SystemRescue's entries.
                "eval" if nesting < 8 => {
                    let commands: Vec<&str> = words.collect();
                    self.body(&commands.join(" "), load, nesting + 1)?;
                }
                name if nesting < 8 && self.functions.contains_key(name) => {
                    let body = self.functions.get(name).cloned().unwrap_or_default();
                    let before = self.arguments(words.map(str::to_owned).collect());
                    self.body(&body, load, nesting + 1)?;
                    self.arguments(before);
                }
                first => self.run(first, depth, &mut words)?,
            }
        }
        Flow::Continue(())
    }

    /// Whether a condition holds, if it asks for a file and the medium is at hand. A file that is
    /// missing under a name with a variable may be there for the loader.
    fn holds(&self, words: Vec<&str>, raw: Peekable<Chars<'_>>, load: Load<'_>) -> Option<bool> {
        let (not, words) = match words.as_slice() {
            ["!", rest @ ..] => (true, rest),
            all => (false, all),
        };
        let (inner, asked) = match words {
            ["[", "!", asked @ .., "]"] => (true, asked),
            ["[", asked @ .., "]"] | ["test", asked @ ..] => (false, asked),
            _ => return None,
        };
        let ["-e" | "-f" | "-s", path] = asked else { return None };
        let there = load(after_variable(path)).is_some();
        let literal = !raw.take_while(|c| !matches!(c, '\n' | ';')).any(|c| c == '$');
        (!self.keep && (there || literal)).then_some(there != (not != inner))
    }

    fn run<'w>(
        &mut self,
        first: &'w str,
        depth: usize,
        words: &mut dyn Iterator<Item = &'w str>,
    ) -> Flow {
        match first {
            "menuentry" | "submenu" => self.shown(first == "submenu", depth, words)?,
            "linux" | "linuxefi" | "linux16" => {
                let kernel = words.next().unwrap_or_default().to_owned();
                // GRUB quotes words with spaces for the kernel.
                let quoted = |w: &str| {
                    if w.contains(char::is_whitespace) { format!("\"{w}\"") } else { w.to_owned() }
                };
                let append: Vec<String> = words.map(quoted).collect();
                if let Some(entry) = &mut self.entry {
                    entry.kernel = kernel;
                    entry.append = append.join(" ");
                }
            }
            "initrd" | "initrdefi" | "initrd16" => {
                if let Some(entry) = &mut self.entry {
                    entry.initrd = words.map(str::to_owned).collect();
                }
            }
            "set" => {
                if let Some((name, value)) = words.next().and_then(|w| w.split_once('=')) {
                    self.set(name, value);
                }
            }
            "unset" | "read" => {
                words.next().map(|name| self.variables.remove(name));
            }
            _ => self.other(first, words)?,
        }
        Flow::Continue(())
    }

    /// An item of the menu: an entry, or a submenu.
    fn shown(
        &mut self,
        submenu: bool,
        depth: usize,
        words: &mut dyn Iterator<Item = &str>,
    ) -> Flow {
        self.end_entry();
        let mut id = String::new();
        // The title and the arguments of the entry's own commands.
        let mut arguments = Vec::new();
        while let Some(word) = words.next() {
            match word.strip_prefix("--id=") {
                Some(given) => given.clone_into(&mut id),
                None if word == "--id" => words.next().unwrap_or_default().clone_into(&mut id),
                None if matches!(word, "--class" | "--users" | "--hotkey") => {
                    words.next();
                }
                None if word.starts_with("--") => {}
                None => arguments.push(word.to_owned()),
            }
        }
        let title = arguments.first().cloned().unwrap_or_default();
        self.submenu.truncate(depth);
        let mut place = self.submenu.clone();
        place.push(self.below(&place).count());
        if self.items.len() >= 2 * ENTRIES_MAX {
            return Flow::Break(());
        }
        if submenu {
            self.submenu.clone_from(&place);
        }
        self.items.push(GrubItem { place, id: id.clone(), title: title.clone(), entry: None });
        self.arguments(arguments);
        if !submenu {
            if id.is_empty() {
                id = format!("entry{}", self.menu.entries.len() + 1);
            }
            self.entry = Some(Entry { id, title, ..Entry::default() });
        }
        Flow::Continue(())
    }

    /// A command that is none of those, as far as it sets variables or starts a kernel.
    fn other<'w>(&mut self, first: &'w str, words: &mut dyn Iterator<Item = &'w str>) -> Flow {
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if let Some((name, value)) = first.split_once('=')
            && is_name(name)
            && !name.is_empty()
        {
            self.set(name, value);
            return Flow::Continue(());
        }
        // `$linux /vmlinuz …`, where the loader finds out which command that is.
        if let Some(name) = first.strip_prefix("${") {
            let command = if name.contains("initrd") { "initrd" } else { "linux" };
            if self.entry.is_some() && (name.contains("initrd") || name.contains("linux")) {
                self.run(command, 1, words)?;
            }
            return Flow::Continue(());
        }
        // What `search`, `probe`, `regexp` and others set is known to the loader alone.
        while let Some(word) = words.next().filter(|_| self.keep) {
            let name = match word.strip_prefix("--set=") {
                Some(name) => Some(name),
                None if matches!(word, "--set" | "-s") => words.next(),
                None => None,
            };
            if let Some(name) = name {
                let name = name.rsplit(':').next().unwrap_or(name);
                self.variables.remove(if is_name(name) { name } else { "root" });
            }
        }
        Flow::Continue(())
    }

    fn set(&mut self, name: &str, value: &str) {
        // `default="${saved_entry}"`: a medium has no saved entry, and GRUB's `if` is not run.
        if name == "default" && (value.is_empty() || value.starts_with("${")) {
            return;
        }
        if self.variables.len() < ENTRIES_MAX || self.variables.contains_key(name) {
            self.variables.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Sets `$1` and the following; returns those of before.
    fn arguments(&mut self, arguments: Vec<String>) -> Vec<String> {
        let names = (1..10).map(|n: u8| n.to_string());
        let before = names.clone().map_while(|name| self.variables.remove(&name)).collect();
        for (name, argument) in names.zip(arguments) {
            self.variables.insert(name, argument);
        }
        before
    }

    fn end_entry(&mut self) {
        let starts = |entry: &Entry| !entry.kernel.is_empty() && !is_no_kernel(&entry.kernel);
        if let Some(entry) = self.entry.take().filter(starts)
            && self.menu.add(entry)
            && let Some(item) = self.items.last_mut()
        {
            item.entry = Some(self.menu.entries.len() - 1);
        }
    }

    /// The words up to the end of a command: a line's end, `;`, or a brace; and whether it
    /// opens a block. A closing brace is a command.
    fn command(&self, chars: &mut Peekable<Chars<'_>>) -> (Vec<String>, bool) {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut size = 0;
        let mut opens = false;
        while let Some(c) = chars.peek().copied() {
            // Unquoted braces end a word, as blanks do.
            if c == '}' && (word.is_some() || !words.is_empty()) {
                break;
            }
            chars.next();
            match c {
                '}' => {
                    words.push("}".to_owned());
                    break;
                }
                '\n' | ';' => break,
                '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
                '{' => {
                    opens = true;
                    break;
                }
                c if c.is_whitespace() => words.extend(word.take()),
                '\'' => {
                    let word = word.get_or_insert_default();
                    word.extend(std::iter::from_fn(|| chars.next().filter(|c| *c != '\'')));
                }
                '"' => {
                    let word = word.get_or_insert_default();
                    while let Some(c) = chars.next().filter(|c| *c != '"') {
                        match c {
                            '\\' => match chars.next() {
                                Some(c @ ('"' | '\\' | '$')) => word.push(c),
                                Some('\n') | None => {}
                                Some(c) => word.extend(['\\', c]),
                            },
                            '$' => size += self.expand(chars, word, size),
                            c => word.push(c),
                        }
                    }
                }
                '\\' => match chars.next() {
                    Some('\n') | None => {}
                    Some(c) => word.get_or_insert_default().push(c),
                },
                '$' => {
                    // Unquoted, an empty variable is no word, and one with
                    // spaces is several.
                    let mut value = String::new();
                    size += self.expand(chars, &mut value, size);
                    let mut parts = value.split_whitespace();
                    if let Some(part) = parts.next() {
                        word.get_or_insert_default().push_str(part);
                    }
                    for part in parts {
                        words.extend(word.replace(part.to_owned()));
                    }
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        (words, opens)
    }

    /// Appends a variable's value; returns its length.
    fn expand(&self, chars: &mut Peekable<Chars<'_>>, to: &mut String, size: usize) -> usize {
        let braced = chars.next_if_eq(&'{').is_some();
        let mut name = String::new();
        let part = |c: &char| {
            c.is_ascii_alphanumeric() || *c == '_' || (braced && *c != '}' && *c != '\n')
        };
        while let Some(c) = chars.next_if(part) {
            name.push(c);
        }
        if braced {
            chars.next_if_eq(&'}');
        } else if name.is_empty() {
            name.extend(chars.next_if(|c| matches!(c, '@' | '*' | '#' | '?')));
        }
        let all: Vec<&str> = if matches!(name.as_str(), "@" | "*") {
            (1..10).map_while(|n: u8| self.variables.get(&n.to_string())).map(|v| &**v).collect()
        } else {
            Vec::new()
        };
        let unset = match self.keep && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            true => format!("${{{name}}}"),
            false => all.join(" "),
        };
        let value = self.variables.get(&name).unwrap_or(&unset);
        if size + value.len() > LINE_MAX {
            return 0;
        }
        to.push_str(value);
        value.len()
    }
}
