//! iPXE scripts, read for their Linux entries (<https://ipxe.org/scripting>).
//!
//! No interpreter: the lines are gone through once from the top, conditions and jumps are not
//! followed, and a variable that nothing above sets stays as `${name}`. Scripts that `chain`
//! names are read where the caller has them.

use super::model::{ENTRIES_MAX, Entry, FILE_MAX, Files, LINE_MAX, Load, Menu, is_no_kernel};
use std::collections::BTreeMap;

/// Whether a file is such a script.
#[must_use]
pub fn is_script(text: &str) -> bool {
    text.starts_with("#!ipxe") || text.starts_with("#!gpxe")
}

/// Reads a script.
#[must_use]
pub fn read(text: &str, load: Load<'_>) -> Menu {
    let mut script = Script::default();
    script.file(text, load, 0);
    script.end_entry();
    let Script { mut menu, default, titles, labels, .. } = script;
    for entry in &mut menu.entries {
        if let Some(title) = titles.get(&entry.id) {
            entry.title.clone_from(title);
        }
    }
    if let Some(default) = default {
        match menu.entries.iter().position(|entry| entry.id == default) {
            Some(at) => menu.default = at,
            None if labels.contains(&default) => {
                menu.other_default = true;
                let note = "the menu's default is '{}', which starts no Linux kernel itself";
                menu.notes.push(note.replace("{}", &default));
            }
            None => {}
        }
    }
    menu
}

#[derive(Default)]
struct Script {
    menu: Menu,
    entry: Option<Entry>,
    variables: BTreeMap<String, String>,
    titles: BTreeMap<String, String>,
    labels: Vec<String>,
    default: Option<String>,
    files: Files,
}

impl Script {
    fn file(&mut self, text: &str, load: Load<'_>, nesting: usize) {
        let text = text.get(..text.floor_char_boundary(FILE_MAX)).unwrap_or_default();
        if !self.files.begin(text, &mut self.menu) {
            return;
        }
        let joined = text.replace("\\\n", "");
        for line in joined.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some(label) = line.strip_prefix(':') {
                self.end_entry();
                if self.labels.len() < ENTRIES_MAX {
                    self.labels.push(label.trim().to_owned());
                }
                continue;
            }
            // `isset ${x} || set x y` sets what is not set.
            let mut only_if_unset = false;
            for command in line.split("||").flat_map(|part| part.split("&&")) {
                let words: Vec<&str> = command.split_whitespace().collect();
                let Some((first, rest)) = words.split_first() else { continue };
                match *first {
                    "isset" => only_if_unset = true,
                    "set" => self.set(rest, only_if_unset),
                    "chain" | "imgexec" if nesting < 8 => {
                        let name = self.filled(arguments(rest).first().unwrap_or(&""));
                        let script = load(&name).filter(|text| is_script(text));
                        match script {
                            Some(text) if self.files.knows(&text, &self.variables) => {}
                            Some(text) => self.file(&text, load, nesting + 1),
                            None => self.run("kernel-by-chain", rest),
                        }
                    }
                    first => self.run(first, rest),
                }
            }
        }
        self.files.end();
    }

    fn set(&mut self, words: &[&str], only_if_unset: bool) {
        let Some((name, value)) = words.split_first() else { return };
        let known = self.variables.contains_key(*name);
        if known && only_if_unset || !known && self.variables.len() >= ENTRIES_MAX {
            return;
        }
        let value = self.filled(&value.join(" "));
        self.variables.insert((*name).to_owned(), value);
    }

    fn run(&mut self, first: &str, rest: &[&str]) {
        match first {
            "item" => {
                let words = arguments(rest);
                if let Some((label, title)) = words.split_first()
                    && self.titles.len() < ENTRIES_MAX
                {
                    let title = self.filled(&title.join(" "));
                    self.titles.insert((*label).to_owned(), title);
                }
            }
            "choose" => {
                let mut words = rest.iter();
                while let Some(word) = words.next() {
                    let name = match word.strip_prefix("--default=") {
                        Some(name) => Some(name),
                        None if matches!(*word, "--default" | "-d") => words.next().copied(),
                        None => None,
                    };
                    if let Some(name) = name.filter(|_| self.default.is_none()) {
                        self.default = Some(self.filled(name));
                    }
                }
            }
            "kernel" | "linux" | "imgselect" | "imgload" => {
                self.end_entry();
                let words = arguments(rest);
                let Some((kernel, line)) = words.split_first() else { return };
                let mut entry = Entry { kernel: self.filled(kernel), ..Entry::default() };
                entry.append = self.filled(&line.join(" "));
                entry.id = self.labels.last().cloned().unwrap_or_default();
                if entry.id.is_empty() {
                    entry.id = format!("entry{}", self.menu.entries.len() + 1);
                }
                self.entry = Some(entry);
            }
            "initrd" | "module" => {
                let path = arguments(rest).first().map(|path| self.filled(path));
                if let Some(entry) = &mut self.entry {
                    entry.initrd.extend(path.filter(|_| entry.initrd.len() < ENTRIES_MAX));
                }
            }
            "imgargs" => {
                let line = self.filled(&rest.get(1..).unwrap_or_default().join(" "));
                if let Some(entry) = &mut self.entry {
                    entry.append = line;
                }
            }
            // A kernel may be started by `chain`, with its line behind it.
            "kernel-by-chain" if rest.iter().any(|word| word.starts_with("initrd=")) => {
                self.run("kernel", rest);
            }
            "boot" => self.end_entry(),
            _ => {}
        }
    }

    fn end_entry(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        // Memory testers and other loaders are started in the same way, without any line.
        if (entry.append.is_empty() && entry.initrd.is_empty()) || is_no_kernel(&entry.kernel) {
            return;
        }
        entry.append = entry.append.replace(char::is_control, " ");
        self.menu.add(entry);
    }

    /// The text with the variables that are set.
    fn filled(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let (name, more) = after.split_once('}').unwrap_or((after, ""));
            match self.variables.get(name).filter(|value| out.len() + value.len() < LINE_MAX) {
                Some(value) => out.push_str(value),
                None => out.extend(["${", name, "}"]),
            }
            rest = more;
        }
        out + rest
    }
}

/// The words without options in front: `--name x`, `-n x`, `--autofree`.
fn arguments<'w>(words: &[&'w str]) -> Vec<&'w str> {
    let mut rest = words;
    while let Some((word, more)) = rest.split_first().filter(|(word, _)| word.starts_with('-')) {
        let takes_one = matches!(*word, "--name" | "-n" | "--timeout" | "-t" | "--key" | "-k");
        rest = if takes_one { more.get(1..).unwrap_or_default() } else { more };
    }
    rest.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCRIPT: &str = "#!ipxe
isset ${server} || set server 192.0.2.1
isset ${server} || set server 192.0.2.9
set base http://${server}/live
menu Choose
item --gap Systems
item --key l live Debian live
item local This disk
choose --default local --timeout 5000 target && goto ${target}
:live
kernel ${base}/vmlinuz initrd=initrd.img boot=live \\
  fetch=${base}/f.squashfs BOOTIF=01-${netX/mac:hexhyp} || goto failed
initrd ${base}/initrd.img
boot
:more
chain --autofree more.ipxe || goto failed
:local
sanboot --drive 0x80
:mem
kernel memtest
boot
";

    /// `explain --from` said that such a script starts no Linux kernel.
    #[test]
    fn entries_of_ipxe_scripts() {
        let mut asked = Vec::new();
        let menu = read(SCRIPT, &mut |name| {
            asked.push(name.to_owned());
            Some("#!ipxe\nkernel k root=/dev/nfs\nimgargs k root=dhcp x=${y}\ninitrd i\n".into())
        });
        assert_eq!(asked, ["more.ipxe"]);
        let entries: Vec<(&str, &str, &str)> =
            menu.entries.iter().map(|e| (&*e.title, &*e.kernel, &*e.append)).collect();
        assert_eq!(
            entries,
            [
                (
                    "Debian live",
                    "http://192.0.2.1/live/vmlinuz",
                    "initrd=initrd.img boot=live fetch=http://192.0.2.1/live/f.squashfs \
                     BOOTIF=01-${netX/mac:hexhyp}"
                ),
                ("", "k", "root=dhcp x=${y}"),
            ]
        );
        assert_eq!(menu.entries[0].initrd, ["http://192.0.2.1/live/initrd.img"]);
        assert!(menu.other_default && menu.notes[0].contains("'local'"));
        let ours = SCRIPT.replace("--default local", "--default live");
        assert!(!read(&ours, &mut |_| None).other_default);
    }

    #[test]
    fn a_script_that_chains_itself_comes_to_an_end() {
        let text = "#!ipxe\nchain a\nkernel k x\nboot\nchain a\n";
        assert_eq!(read(text, &mut |_| Some(text.into())).entries.len(), 1);
    }

    proptest! {
        #[test]
        fn anything(text in "(#!ipxe\n)?([a-z:$|&{} =\\\\-]{0,12}\n?){0,20}") {
            let _ = read(&text, &mut |_| Some(text.clone()));
        }
    }
}
