//! Where the disks go, asked at the console: for a line that says `bw.p2v` and no server.
//!
//! The answers become words of a line, which is read as every other one: what is wrong with them
//! is said in the same texts. One line is asked for at a time, so that it works on a serial console.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cmdline::plan::{P2vPlan, P2vWay, Then};
use cmdline::secrets::PrivateLine;

use crate::baked;
use crate::clone;
use crate::keys::{SingleKeys, wait_key};
use crate::log::Level;
use crate::machine::Machine;
use crate::p2v;
use crate::trace::{Failure, Fault};

/// The longest answer.
const MAX: usize = 400;

/// What was answered.
#[derive(Debug, Default)]
struct Answers {
    to: String,
    secret: String,
    name: String,
    disks: String,
}

impl Answers {
    /// Whether a password is asked for, or the key of `p2v://`: the name of the word.
    fn secret_word(&self) -> Option<&'static str> {
        match self.to.split_once("://") {
            None | Some(("v2v" | "ssh", _)) => Some("p2v.password"),
            Some(("p2v", _)) => Some("bw.p2v.key"),
            Some(_) => None,
        }
    }

    /// The words that say this, without those whose answer is empty.
    fn words(&self) -> Result<String, &'static str> {
        let scheme = if self.to.contains("://") { "" } else { "v2v://" };
        let to = [scheme, &self.to].concat();
        let mut words = Vec::new();
        let all = [
            (Some("bw.p2v"), to.as_str()),
            (self.secret_word(), &self.secret),
            (Some("p2v.name"), &self.name),
            (Some("p2v.disks"), &self.disks),
        ];
        for (word, value) in all {
            let Some(word) = word.filter(|_| !value.is_empty()) else { continue };
            if value.contains('"') {
                return Err("a line has no way to write a quotation mark");
            }
            let quote = if value.contains(' ') { "\"" } else { "" };
            words.push(format!("{word}={quote}{value}{quote}"));
        }
        Ok(words.join(" "))
    }
}

/// Asks, shows what will be done, and sends the disks. Returns as [`p2v::send`] does.
pub fn ask(machine: &mut Machine) -> Failure {
    let line = machine.orders.line;
    // People take as long as they take.
    machine.stop_clock();
    clone::wait_for_disks(machine);
    let plan = loop {
        match plan(machine, line) {
            Ok(plan) => break plan,
            Err(fault) => machine.log.say(Level::Verdict, &fault.to_string()),
        }
    };
    p2v::send(machine, &plan)
}

/// One round of questions.
fn plan(machine: &mut Machine, line: &PrivateLine) -> Result<P2vPlan, Fault> {
    let _keys = SingleKeys::of(machine.log.console());
    for disk in p2v::listed() {
        machine.log.print(&["  ", &disk].concat());
    }
    let mut answers = Answers::default();
    let where_to = "Where to? USER@HOST of a server with virt-v2v, or a URL (ssh://USER@HOST/PATH, \
                    p2v://HOST, nbd://HOST, tcp://HOST:PORT)";
    while answers.to.is_empty() {
        answers.to = answer(machine, where_to, false);
    }
    let baked = baked::read();
    let defaults: Vec<&str> = baked.defaults.iter().map(String::as_str).collect();
    let known = ["p2v.identity=", "p2v.auth.identity.url=", "password=", "bw.p2v.key="];
    let given = |text: &str| known.iter().any(|word| text.contains(word));
    let known = given(line.reveal()) || defaults.iter().any(|text| given(text));
    let secret = match answers.secret_word().filter(|_| !known) {
        Some("bw.p2v.key") => Some("The key that p2v-server shows"),
        Some(_) => Some("Password"),
        None => None,
    };
    if let Some(question) = secret {
        answers.secret = answer(machine, question, true);
    }
    answers.name = answer(machine, "Name of the guest (empty: this machine's)", false);
    answers.disks = answer(machine, "Disks, with commas between (empty: all of them)", false);
    let words = answers.words()?;
    // The first of equal words wins.
    let whole = PrivateLine::new([&words, " ", line.reveal()].concat());
    let context = cmdline::Context { defaults: &defaults, ..cmdline::Context::default() };
    let parsed = cmdline::parse(whole.reveal(), &context);
    if let Some(fatal) = parsed.warnings.iter().find(|warning| warning.fatal) {
        return Err(format!("{} {}; {}", fatal.word, fatal.message, fatal.hint).into());
    }
    let Then::P2v(plan) = parsed.handoff.then else { return Err("no server was named".into()) };
    p2v::there(&plan)?;
    if plan.way == P2vWay::V2v {
        p2v::test(machine, &plan)?;
    }
    let all = String::from("all disks");
    let disks = if plan.disks.is_empty() { all } else { plan.disks.join(", ") };
    let question = format!("Enter sends {disks} to {}; any word asks anew", answers.to);
    match answer(machine, &question, false).as_str() {
        "" => Ok(*plan),
        _ => Err("nothing was sent".into()),
    }
}

/// A line that is typed; of a secret only asterisks are shown.
fn answer(machine: &mut Machine, question: &str, secret: bool) -> String {
    machine.log.print(question);
    machine.log.write("> ");
    let mut typed = String::new();
    let mut escape = false;
    while let Some(key) = wait_key(machine, None) {
        match key {
            // A sequence of a function key ends with a letter or a tilde.
            _ if escape => escape = !(key.is_ascii_alphabetic() || key == b'~') || key == b'O',
            b'\r' | b'\n' => break,
            0x1b => escape = true,
            0x7f | 0x08 if typed.pop().is_some() => machine.log.write("\u{8} \u{8}"),
            0x15 => {
                machine.log.write(&"\u{8} \u{8}".repeat(typed.len()));
                typed.clear();
            }
            b' '..=b'~' if typed.len() < MAX => {
                let shown = char::from(key);
                typed.push(shown);
                machine.log.write(&if secret { '*' } else { shown }.to_string());
            }
            _ => {}
        }
    }
    machine.log.write("\n");
    typed.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(to: &str, secret: &str) -> Answers {
        Answers { to: to.into(), secret: secret.into(), ..Answers::default() }
    }

    #[test]
    fn answers_are_words_of_a_line() {
        let mut all = answers("root@10.0.0.1", "two words");
        (all.name, all.disks) = ("web 1".into(), "sda,sdb".into());
        let words = all.words().unwrap();
        assert_eq!(
            words,
            "bw.p2v=v2v://root@10.0.0.1 p2v.password=\"two words\" p2v.name=\"web 1\" p2v.disks=sda,sdb"
        );
        // What the line has besides is kept, and of two equal words the answer is taken.
        let line = format!("{words} bw.p2v p2v.name=other p2v.o=null");
        let plan = cmdline::parse(&line, &cmdline::Context::default());
        let Then::P2v(plan) = plan.handoff.then else { panic!() };
        assert_eq!((plan.name.as_deref(), plan.output.as_str()), (Some("web 1"), "null"));
        assert_eq!(plan.disks, ["sda", "sdb"]);
        let own = answers("p2v://10.0.0.1", "sixteen letters.").words().unwrap();
        assert_eq!(own, "bw.p2v=p2v://10.0.0.1 bw.p2v.key=\"sixteen letters.\"");
        assert_eq!(answers("tcp://h:1", "x").words().unwrap(), "bw.p2v=tcp://h:1");
        assert!(answers("h", "a\"b").words().is_err());
    }
}
