//! What a user at the console can do beyond pressing a key: stop before a step,
//! change the line, use a shell.
//!
//! The line is changed by a file that is bound over `/proc/cmdline`, and `/init`
//! starts anew: so everything reads the changed line, the live system included.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use cmdline::plan::point;
use cmdline::secrets::{self, PrivateLine};
use rustix::fd::AsFd;
use sys::clock::Instant;
use sys::errno::Shown;
use sys::file::{make_dir, write_file};
use sys::mount::{bind, detach};

use crate::keys::{SingleKeys, act, wait_key};
use crate::layers;
use crate::log::Level;
use crate::machine::Machine;
use crate::newroot::ROOT;
use crate::tool;

/// The keys of the failure screen that this module serves.
pub const KEYS: &str = "e edit the line, s shell, ";

/// Where a changed line is kept.
const CHANGED: &str = "/run/bellwether/cmdline";

/// What the kernel shows it as.
const CMDLINE: &str = "/proc/cmdline";

/// An editor without a keystroke gives up after this long, so that a machine
/// that a passing cat woke does not wait for ever.
const EDIT_LIMIT: Duration = Duration::from_secs(300);

/// How often the ended children of a shell are looked for.
const ORPHANS: Duration = Duration::from_secs(1);

/// Does what a key says.
pub fn key(machine: &mut Machine, key: u8) {
    match key {
        b'e' | b's' if machine.orders.plan.failure.locked => {
            machine.log.say(Level::Verdict, "the line locks shell and editor");
        }
        b'e' => edit(machine),
        b's' => shell(machine),
        _ => {}
    }
}

/// A step begins; when the line says so, the boot stops before it.
pub fn begin(machine: &mut Machine, step: &'static str) {
    machine.step(step);
    let points = &machine.orders.plan.failure.breakpoints;
    let Some(name) = points.iter().find(|name| point(name) == Some(step)) else { return };
    machine.stop_clock();
    machine.log.say(Level::Verdict, &format!("stopped before the step {step}, at {name}"));
    shell(machine);
    let keys = ["keys: c continue, ", KEYS, "b reboot, o power off, l log"].concat();
    let _keys = SingleKeys::of(machine.log.console());
    machine.log.say(Level::Verdict, &keys);
    loop {
        match wait_key(machine, None) {
            Some(b'c') | None => break,
            Some(code) if act(machine, code) => {}
            Some(code) => key(machine, code),
        }
    }
    machine.start_clock();
}

/// Runs a shell on the console: the image's own, or, once there is a root, that
/// of the live system.
fn shell(machine: &mut Machine) {
    let root = [ROOT.to_string()];
    let found = match (tool::find("sh", &root), tool::find("busybox", &[])) {
        (Some(shell), _) => Some((shell, None)),
        (None, Some(busybox)) => Some((busybox, Some("sh"))),
        (None, None) => None,
    };
    let Some((shell, applet)) = found else {
        let text = "no shell in this image: bellwether build --include /bin/busybox adds one";
        machine.log.say(Level::Verdict, text);
        return;
    };
    machine.log.say(Level::Verdict, &format!("{shell}: exit goes back"));
    let _lines = SingleKeys::released(machine.log.console());
    let args: Vec<&str> = applet.into_iter().collect();
    let started = match machine.log.console() {
        Some(console) => shell.start(&args, Some(console.as_fd())),
        None => shell.start(&args, None),
    };
    match started {
        // Drivers go on loading, and a stick that is plugged in appears.
        Ok(running) => {
            while running.runs() {
                // The kernel does not report ended orphans by name: look for them.
                let soon = Instant::now().after(ORPHANS);
                machine.wait(&[running.as_fd()], Some(soon));
            }
        }
        Err(fault) => machine.log.warn(&fault.to_string()),
    }
}

/// Lets the user change the line, and starts anew with it.
fn edit(machine: &mut Machine) {
    machine.log.print("change the line; Enter boots with it, Ctrl-C leaves it as it was");
    let mut editor = Editor::new(&machine.orders.line.to_string());
    loop {
        machine.log.write(&editor.shown());
        match wait_key(machine, Some(Instant::now().after(EDIT_LIMIT))) {
            Some(byte) => match editor.feed(byte) {
                Step::More => {}
                Step::Done => break,
                Step::Left => {
                    machine.log.print("");
                    return;
                }
            },
            None => {
                machine.log.print("");
                return;
            }
        }
    }
    machine.log.print("");
    let line = PrivateLine::new(secrets::restored(&editor.text(), machine.orders.line.reveal()));
    machine.log.say(Level::Verdict, &format!("starting anew with: {line}"));
    let bound = make_dir("/run/bellwether", 0o755)
        .and_then(|()| write_file(CHANGED, format!("{}\n", line.reveal()).as_bytes(), 0o444))
        .and_then(|()| {
            // The one of an earlier change; there is none the first time.
            let _ = detach(CMDLINE);
            bind(CHANGED, CMDLINE)
        });
    match bound {
        Ok(()) => {
            // The next program finds the terminal as the kernel made it.
            let lines = SingleKeys::released(machine.log.console());
            layers::undo(machine);
            machine.start_anew();
            drop(lines);
        }
        Err(errno) => machine.log.warn(&format!("the line cannot be changed: {}", Shown(errno))),
    }
}

/// What a key did to the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    Done,
    Left,
}

/// Part of the line that is shown: a serial console may be no wider.
pub(crate) const WINDOW: usize = 70;

/// Longest line, as `/init` reads it.
const MAX: usize = 64 << 10;

/// A line being changed on a terminal, one byte of input at a time.
#[derive(Debug)]
pub(crate) struct Editor {
    text: Vec<char>,
    cursor: usize,
    /// An escape sequence that has begun (ECMA-48: ESC [ parameters final).
    escape: Vec<u8>,
}

impl Editor {
    pub(crate) fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().filter(|c| !c.is_control()).collect();
        Self { cursor: text.len(), text, escape: Vec::new() }
    }

    pub(crate) fn text(&self) -> String {
        self.text.iter().collect::<String>().trim().to_string()
    }

    pub(crate) fn feed(&mut self, byte: u8) -> Step {
        if !self.escape.is_empty() {
            self.escape.push(byte);
            let done = match self.escape.len() {
                2 => !matches!(byte, b'[' | b'O'),
                length => byte.is_ascii_alphabetic() || byte == b'~' || length > 8,
            };
            if done {
                self.sequence();
                self.escape.clear();
            }
            return Step::More;
        }
        match byte {
            b'\r' | b'\n' => return Step::Done,
            3 | 7 => return Step::Left,
            1 => self.cursor = 0,
            5 => self.cursor = self.text.len(),
            2 => self.cursor = self.cursor.saturating_sub(1),
            6 => self.cursor = self.text.len().min(self.cursor + 1),
            8 | 127 => self.rub_out(1),
            4 => self.delete(),
            11 => self.text.truncate(self.cursor),
            21 => self.rub_out(self.cursor),
            23 => {
                let before = self.text.get(..self.cursor).unwrap_or_default();
                let blanks = before.iter().rev().take_while(|c| **c == ' ').count();
                let word = before.iter().rev().skip(blanks).take_while(|c| **c != ' ').count();
                self.rub_out(blanks + word);
            }
            27 => self.escape.push(byte),
            // The words that matter are ASCII.
            b' '..=b'~' if self.text.len() < MAX => {
                self.text.insert(self.cursor.min(self.text.len()), char::from(byte));
                self.cursor += 1;
            }
            _ => {}
        }
        Step::More
    }

    fn sequence(&mut self) {
        match self.escape.get(1..).unwrap_or_default() {
            b"[C" | b"OC" => self.cursor = self.text.len().min(self.cursor + 1),
            b"[D" | b"OD" => self.cursor = self.cursor.saturating_sub(1),
            b"[H" | b"OH" | b"[1~" => self.cursor = 0,
            b"[F" | b"OF" | b"[4~" => self.cursor = self.text.len(),
            b"[3~" => self.delete(),
            _ => {}
        }
    }

    fn rub_out(&mut self, count: usize) {
        let from = self.cursor.saturating_sub(count);
        self.text.drain(from..self.cursor.min(self.text.len()));
        self.cursor = from;
    }

    fn delete(&mut self) {
        if self.cursor < self.text.len() {
            self.text.remove(self.cursor);
        }
    }

    /// One terminal line with the part around the cursor, and the cursor in it.
    pub(crate) fn shown(&self) -> String {
        let start =
            self.cursor.saturating_sub(self.cursor % (WINDOW / 2)).saturating_sub(WINDOW / 2);
        let part: String = self.text.iter().skip(start).take(WINDOW).collect();
        let left = if start > 0 { '<' } else { ' ' };
        let right = if self.text.len() > start + WINDOW { ">" } else { "" };
        format!("\r{left}{part}{right}\x1b[K\r\x1b[{}C", self.cursor - start + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(line: &str, keys: &[u8]) -> (String, Step) {
        let mut editor = Editor::new(line);
        let mut step = Step::More;
        for key in keys {
            step = editor.feed(*key);
        }
        (editor.text(), step)
    }

    #[test]
    fn keys_do_what_shells_taught_people() {
        assert_eq!(typed("root=/dev/sda1", b"\x7f2"), ("root=/dev/sda2".into(), Step::More));
        assert_eq!(typed("b=c", b"\x01a \x05 d\r"), ("a b=c d".into(), Step::Done));
        assert_eq!(typed("a bad word", b"\x17good\n"), ("a bad good".into(), Step::Done));
        assert_eq!(typed("abc", b"\x1b[D\x1b[DX"), ("aXbc".into(), Step::More));
        assert_eq!(typed("abc", b"\x1b[H\x1b[3~"), ("bc".into(), Step::More));
        assert_eq!(typed("abc", b"\x15new"), ("new".into(), Step::More));
        assert_eq!(typed("abc", b"\x03"), ("abc".into(), Step::Left));
    }

    #[test]
    fn a_long_line_is_shown_around_the_cursor() {
        let line = "word ".repeat(100);
        let mut editor = Editor::new(&line);
        assert!(editor.shown().starts_with("\r<"));
        editor.feed(1);
        let shown = editor.shown();
        assert!(shown.starts_with("\r word") && shown.ends_with(">\x1b[K\r\x1b[1C"), "{shown:?}");
    }

    proptest! {
        #[test]
        fn any_keys(line in ".{0,200}", keys in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut editor = Editor::new(&line);
            for key in keys {
                editor.feed(key);
                prop_assert!(editor.cursor <= editor.text.len());
                let shown = editor.shown();
                prop_assert!(shown.chars().filter(|c| !c.is_control()).count() <= WINDOW + 16);
            }
        }
    }
}
