//! `bellwether explain`: what a kernel command line will do, before a machine is
//! switched on for it.
//!
//! The plan is made by the same code that /init runs; here it is only printed.

use cmdline::json::Json;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::args::Explain;
use crate::carries::{Initramfs, Lack};
use crate::changes;
use crate::failure::Failure;
use crate::standins;
use cmdline::{BootPlan, Context, docs, secrets};
use cpio_builder::menu::Entry;

/// Most that is read from a file.
const MAX_INPUT: u64 = 1 << 20;

/// Prints the plan.
///
/// The exit status is 0 when the line makes a plan, 1 when the boot would fail, 2
/// when there is no line to read.
pub fn run(args: &Explain) -> Result<(), Failure> {
    if let Some(from) = &args.from {
        return match (&args.file, args.line.as_slice()) {
            (None, []) => menus(args, from),
            _ => usage("--from, --file and a command line are different things to explain"),
        };
    }
    let line = match (&args.file, args.line.as_slice()) {
        (None, []) => return usage("no command line to explain; put it in quotes after 'explain'"),
        (None, words) => words.join(" "),
        (Some(_), [_, ..]) => return usage("--file and a command line together"),
        (Some(file), []) => match read(file) {
            Ok(line) => line,
            Err(why) => return usage(&format!("{}: {why}", file.display())),
        },
    };
    let initrd = args.initrd.as_deref().map(Initramfs::read).transpose()?;
    let plan = parse(args, initrd.as_ref(), &line);
    let lacks = initrd.as_ref().map(|initrd| initrd.lacks(&plan));
    let text = match args.json {
        true => json(args, &plan, lacks.as_deref()),
        false => report(args, &plan, lacks.as_deref()),
    };
    print!("{text}");
    let works = plan.can_work() && !fails(lacks.as_deref());
    if works { Ok(()) } else { Err(Failure::Told) }
}

/// The plan of a line, with the words that are built into the initramfs and those of
/// `--defaults`.
fn parse(args: &Explain, initrd: Option<&Initramfs>, line: &str) -> BootPlan {
    let baked = initrd.map(|initrd| initrd.baked.clone()).unwrap_or_default();
    let defaults: Vec<&str> = baked.defaults.iter().chain(&args.defaults).map(|d| &**d).collect();
    let context = Context {
        arch: args.arch.as_deref().unwrap_or(std::env::consts::ARCH),
        defaults: &defaults,
        medium_uuid: &baked.medium_uuid,
        layerfs_path: &baked.layerfs_path,
        ..Context::default()
    };
    cmdline::parse(line, &context)
}

fn fails(lacks: Option<&[Lack]>) -> bool {
    lacks.is_some_and(|lacks| lacks.iter().any(|lack| lack.fatal))
}

/// The same for people.
fn about(args: &Explain, lacks: Option<&[Lack]>) -> String {
    let (Some(initrd), Some(lacks)) = (&args.initrd, lacks) else { return String::new() };
    let mut out = format!("\ninitramfs   {}\n", initrd.display());
    if lacks.is_empty() {
        out.push_str("            carries what this line asks for\n");
    }
    for lack in lacks {
        let kind = if lack.fatal { "error" } else { "warning" };
        out.push_str(&format!("            {kind}: {}\n", lack.what));
    }
    if fails(Some(lacks)) {
        out.push_str("\nThis line would fail at boot with this initramfs.\n");
    }
    out
}

/// The plan's JSON, with what it lacks and changes if that was asked for.
fn json(args: &Explain, plan: &BootPlan, lacks: Option<&[Lack]>) -> String {
    let mut text = plan.to_json();
    let mut add = |key: &str, value: &str| {
        // In the place of the object's end.
        text.truncate(text.trim_end().len().saturating_sub(1));
        text.push_str(&format!(",\"{key}\":{value}}}\n"));
    };
    if let Some(lacks) = lacks {
        let mut list = Json::new();
        list.array();
        for lack in lacks {
            list.object().flag("fatal", lack.fatal).field("message", &lack.what).end_object();
        }
        list.end_array();
        add("initrd_lacks", &list.finish());
    }
    if args.changes {
        let (facts, changes) = changes::of(plan);
        let mut object = Json::new();
        object.object().list("of", &facts).list("list", &changes).end_object();
        add("changes", &object.finish());
    }
    text
}

/// What the live system's root would get.
fn changed(plan: &BootPlan) -> String {
    let (facts, changes) = changes::of(plan);
    let mut out = String::from("\nchanges");
    for (n, line) in facts.iter().chain(&changes).enumerate() {
        out.push_str(if n == 0 { "     " } else { "            " });
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// What a plan says of a word with such a variable, which is right for a line that a machine was
/// booted with, and not for one in a menu.
const UNFILLED: &str = "a variable that the boot loader did not fill in";
/// What a menu's reader is told of them instead.
const UNSET: &str = "the loader puts in what a command, or the menu that calls this one, has set, \
                     or nothing";

/// The variables of a line that the menu leaves open, each once.
fn unset(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut word = "";
    for (n, part) in line.split("${").enumerate() {
        let within = word;
        word = part.rsplit(char::is_whitespace).next().unwrap_or_default();
        let Some((name, _)) = part.split_once('}').filter(|_| n > 0) else { continue };
        let name = format!("${{{name}}}");
        // archiso's own scripts read this one.
        let archiso = name == "${pxeserver}" && within.starts_with("archiso_");
        if !names.contains(&name) && !archiso {
            names.push(name);
        }
    }
    names
}

/// The first variable that stands for words of the line.
fn whole_words(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with("${") && word.ends_with('}'))
}

/// Explains the entries of menus; the exit status is 1 when one would fail.
fn menus(args: &Explain, from: &Path) -> Result<(), Failure> {
    let found = crate::menus::read(from)?;
    let menus = &found.menus;
    for text in found.medium.iter().flat_map(|medium| &medium.warnings) {
        eprintln!("warning: {text}");
    }
    let initrd = args.initrd.as_deref().map(Initramfs::read).transpose()?;
    let mut objects = Vec::new();
    let mut told: Vec<Shown<'_>> = Vec::new();
    let mut all_work = true;
    for (name, menu) in menus {
        let is_default = |n| n == menu.default && !menu.other_default;
        for note in &menu.notes {
            show(&mut told, format!("note        {note}"), name, String::new());
        }
        for (n, entry) in menu.entries.iter().enumerate() {
            // A loop over files that only the loader can list gives the same entry again.
            let same = |b: &Entry| {
                (&b.title, &b.kernel, &b.append) == (&entry.title, &entry.kernel, &entry.append)
            };
            let known = menu.entries.iter().take(n).any(same);
            if known && !is_default(n) && !args.json {
                continue;
            }
            let line = menu.words_in_front(entry) + &entry.append;
            let errors = |line: &str| {
                let plan = parse(args, initrd.as_ref(), line);
                plan.warnings.iter().filter(|warning| warning.fatal).count()
            };
            let filled = standins::fill(&line, errors);
            let mut plan = parse(args, initrd.as_ref(), &filled.line);
            let unset = unset(&entry.append);
            plan.warnings.retain(|warning| {
                let made_up = filled.is_about(&warning.word) || warning.message.contains(UNFILLED);
                warning.fatal || !made_up
            });
            if let Some(whole) = whole_words(&entry.append) {
                for warning in plan.warnings.iter_mut().filter(|w| w.message == cmdline::NO_ROOT) {
                    warning.message.push_str(&format!(", unless {whole} does"));
                    warning.fatal = false;
                }
            }
            let lacks = initrd.as_ref().map(|initrd| initrd.lacks(&plan));
            let layout = found.medium.as_ref().map(|medium| medium.layout(name, entry));
            // What our /init would do with such a line does not matter.
            let own = layout.is_some_and(|layout| layout.has_own_init());
            all_work &= own || (plan.can_work() && !fails(lacks.as_deref()));
            let initrds: Vec<String> = entry.initrd.iter().map(|path| shown(path)).collect();
            let title = if entry.title.is_empty() { &entry.id } else { &entry.title };
            if args.json {
                let plan = filled.restored(&json(args, &plan, lacks.as_deref()));
                let mut json = Json::new();
                json.object().field("menu", name).field("title", title);
                json.flag("default", is_default(n)).field("kernel", &shown(&entry.kernel));
                json.list("initrd", &initrds).field("append", &shown(&entry.append));
                if let Some(layout) = layout {
                    json.field("layout", layout.name).flag("own_init", own);
                }
                json.key("plan").raw(plan.trim_end()).end_object();
                objects.push(json.finish());
            } else {
                let note = match unset.is_empty() {
                    true => String::new(),
                    false => {
                        format!("note        not set in this menu: {}; {UNSET}\n", unset.join(" "))
                    }
                };
                let layout = layout.map_or_else(String::new, |layout| match own {
                    true => format!(
                        "layout      {}: 'share' starts its own /init; below is what ours would do\n",
                        layout.name
                    ),
                    false => format!("layout      {}\n", layout.name),
                });
                let default = if is_default(n) { ", the default" } else { "" };
                let rest = format!(
                    "kernel      {}\ninitrd      {}\nline        {}\n{layout}{note}\n{}",
                    shown(&entry.kernel),
                    initrds.join(" "),
                    shown(&entry.append),
                    filled.restored(&report(args, &plan, lacks.as_deref()))
                );
                show(&mut told, format!("=== {title}{default}"), name, rest);
            }
        }
    }
    let text = match args.json {
        true => format!("[{}]\n", objects.join(",")),
        false => {
            let text = |s: &Shown<'_>| format!("{} ({})\n{}", s.head, s.menus.join(", "), s.rest);
            told.iter().map(text).collect::<Vec<_>>().join("\n")
        }
    };
    print!("{text}");
    if all_work { Ok(()) } else { Err(Failure::Told) }
}

/// A line or a name of a file of a menu, without the passwords in it.
fn shown(text: &str) -> String {
    let masked = secrets::masked_line(text);
    if masked.contains(secrets::MASK) { masked } else { text.to_owned() }
}

/// An entry or a note, and the menus that have it: a medium has one for each boot loader.
struct Shown<'m> {
    head: String,
    menus: Vec<&'m str>,
    rest: String,
}

/// Adds an entry, or its menu to what is shown already.
fn show<'m>(shown: &mut Vec<Shown<'m>>, head: String, menu: &'m str, rest: String) {
    match shown.iter_mut().find(|s| (&s.head, &s.rest) == (&head, &rest)) {
        Some(same) if !same.menus.contains(&menu) => same.menus.push(menu),
        Some(_) => {}
        None => shown.push(Shown { head, menus: vec![menu], rest }),
    }
}

fn usage(why: &str) -> Result<(), Failure> {
    Err(Failure::Usage(why.to_owned()))
}

fn read(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin().take(MAX_INPUT).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(MAX_INPUT).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The plan for people: steps, words, warnings, verdict.
fn report(args: &Explain, plan: &BootPlan, lacks: Option<&[Lack]>) -> String {
    let describe: fn(&BootPlan, &str) -> Option<&'static str> =
        if args.words { docs::describe } else { |_, _| None };
    let mut out = plan.to_text();
    out.push_str("\nwords\n");
    out.push_str(&plan.words_text(describe));
    if args.changes {
        out.push_str(&changed(plan));
    }
    let warnings = plan.warnings_text();
    if !warnings.is_empty() {
        out.push('\n');
        out.push_str(&warnings);
    }
    if !plan.can_work() {
        out.push_str("\nThis line would fail at boot.\n");
    }
    out + &about(args, lacks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio_builder::newc::{Archive, Node};

    fn plan(line: &str) -> BootPlan {
        cmdline::parse(line, &Context::default())
    }

    #[test]
    fn the_report_names_everything_that_matters() {
        let words = Explain { words: true, changes: true, ..Explain::default() };
        let text = report(
            &words,
            &plan("boot=casper netbot=nfs nfsroot=10.0.0.1:/srv ip=dhcp quiet"),
            None,
        );
        for piece in [
            "dialect     casper",
            "network     DHCP",
            "NFS 10.0.0.1:/srv",
            "writable    overlay",
            "on failure  a menu",
            "used        quiet",
            "Only warnings and errors on the console.",
            "did you mean netboot?",
            "move the mount /run/bellwether/cdrom to /cdrom",
        ] {
            assert!(text.contains(piece), "{piece:?} is missing in\n{text}");
        }
        assert!(!text.contains("would fail"));
    }

    #[test]
    fn a_line_that_cannot_work_ends_badly() {
        let text = report(&Explain::default(), &plan("boot=casper netboot=url"), None);
        assert!(
            text.contains("error: netboot=url needs a URL") && text.contains("would fail at boot")
        );
        let args = |line: &[&str]| Explain {
            line: line.iter().map(ToString::to_string).collect(),
            ..Explain::default()
        };
        let run = |line: &[&str]| run(&args(line));
        assert!(matches!(run(&["root=/dev/sda1"]), Ok(())));
        assert!(matches!(run(&["quiet"]), Err(Failure::Told)));
        assert!(matches!(run(&[]), Err(Failure::Usage(_))));
        let from = |file: &str| Explain { file: Some(file.into()), ..Explain::default() };
        assert!(matches!(super::run(&from("/no/such/file")), Err(Failure::Usage(_))));
        // An empty line says nothing about a root.
        assert!(matches!(super::run(&from("/dev/null")), Err(Failure::Told)));
    }

    /// `--from` showed the passwords of URLs.
    #[test]
    fn a_menu_is_shown_without_its_passwords() {
        assert_eq!(shown("a  b=http://h/x"), "a  b=http://h/x");
        for text in ["http://u:SECRET@h/v", "boot=live fetch=http://u:SECRET@h/x  quiet"] {
            let shown = shown(text);
            assert!(shown.contains(secrets::MASK) && !shown.contains("SECRET"), "{shown}");
        }
    }

    /// "would fail at boot", of a line whose words a variable holds.
    #[test]
    fn a_variable_that_is_a_word_may_name_the_root() {
        assert_eq!(whole_words("quiet ${kernelcmd} a=${b}"), Some("${kernelcmd}"));
        assert_eq!(whole_words("quiet a=${b}"), None);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("grub.cfg");
        let menu = |line: &str| {
            let text = format!("menuentry a {{ linux /v {line}\ninitrd /i\n}}\n");
            std::fs::write(&file, text).unwrap();
            let args = Explain { from: Some(file.clone()), ..Explain::default() };
            super::run(&args)
        };
        assert!(matches!(menu("quiet ${kernelcmd}"), Ok(())));
        assert!(matches!(menu("quiet a=${b}"), Err(Failure::Told)));
    }

    /// An Ubuntu initrd says BOOT=casper and its lines do not; the plan was one of a plain NFS
    /// root, and "carries what this line asks for".
    #[test]
    fn words_built_into_the_initramfs_count() {
        let mut archive = Archive::new();
        let file = |text: &str| Node::File(text.as_bytes().to_vec());
        archive
            .add("conf/conf.d/default-boot-to-casper.conf", 0o644, file("export BOOT=casper\n"))
            .unwrap();
        archive.add("etc/cmdline.d/50-defaults.conf", 0o644, file("toram\n")).unwrap();
        archive.add("conf/uuid.conf", 0o644, file("8a-1\n")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let initrd = dir.path().join("initrd");
        std::fs::write(&initrd, archive.write(1).unwrap()).unwrap();
        let initrd = Initramfs::read(&initrd).unwrap();
        let plan = super::parse(&Explain::default(), Some(&initrd), "--- quiet splash");
        let text = plan.to_text();
        assert!(text.contains("casper") && text.contains("8a-1"), "{text}");
        assert!(plan.to_json().contains("\"to_ram\":{"), "{}", plan.to_json());
    }

    /// Each word with `${iso_path}` was called misspelt, though the calling menu sets it.
    #[test]
    fn variables_that_a_menu_leaves_open_are_named_once() {
        assert_eq!(unset("a=${x} b=${y}${x} c=${z"), ["${x}", "${y}"]);
        let plan = plan("boot=live findiso=${x}");
        assert!(plan.warnings.iter().any(|warning| warning.message.contains(UNFILLED)));
    }

    #[test]
    fn json_is_whole() {
        let args = Explain { changes: true, ..Explain::default() };
        let text = json(&args, &plan("root=/dev/sda1 x=\"a\\b\""), Some(&[]));
        assert!(text.contains(r#","initrd_lacks":[],"changes":{"of":["#));
        assert!(text.starts_with('{') && text.ends_with("}\n"));
        assert!(text.contains(r#""can_work":true"#));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
