//! What runs in a POSIX shell on the server, and what it reports.
//!
//! Reports are lines of its standard output that begin with [`MARK`]; all other lines are
//! the output of programs there. The conversion's directory and the files in it are
//! virt-p2v's: administrators look for them there.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::trouble::{Meaning, Trouble};

/// The start of a report.
pub const MARK: &str = "bellwether-p2v: ";

/// A line that no file of ours has.
const END: &str = "BELLWETHER-END-OF-FILE";

/// The oldest virt-v2v that reads such a description.
const OLDEST: (u32, u32) = (1, 28);
/// From here on it converts Enterprise Linux 9 (virt-v2v#54).
const FRESH: (u32, u32, u32) = (2, 3, 4);

/// A word for a POSIX shell.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What is asked of a conversion server first. It ends with the report `probed`.
#[must_use]
pub fn probe(sudo: bool) -> String {
    let sudo_works = "sudo -n true </dev/null >/dev/null 2>&1 || say missing sudo\n";
    format!(
        "say() {{ echo \"{MARK}$*\"; }}\n\
         PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n\
         {}if command -v virt-v2v >/dev/null 2>&1; then\n\
         say version \"$(virt-v2v --version </dev/null 2>&1 | head -n 1)\"\n\
         virt-v2v --machine-readable </dev/null 2>/dev/null | while read -r l; do say can \"$l\"; done\n\
         else say missing virt-v2v; fi\n\
         say probed\n",
        if sudo { sudo_works } else { "" }
    )
}

/// What a conversion server said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    version: String,
    can: Vec<String>,
    missing: Vec<String>,
}

impl Probe {
    /// Takes a report; returns whether it was the last.
    pub fn take(&mut self, report: &str) -> bool {
        let (key, value) = report.split_once(' ').unwrap_or((report, ""));
        let list = match key {
            "version" => {
                self.version = value.to_string();
                return false;
            }
            "can" => &mut self.can,
            "missing" => &mut self.missing,
            _ => return key == "probed",
        };
        if list.len() < 256 {
            list.push(value.to_string());
        }
        false
    }

    /// The first line of `virt-v2v --version`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it can make such an output of this machine.
    ///
    /// # Errors
    /// It lacks a program, or something that is needed of it.
    pub fn judge(&self, output: &str) -> Result<(), Trouble> {
        if self.missing.iter().any(|name| name == "virt-v2v") {
            return Err(Trouble::new(
                "the server has no virt-v2v",
                "install the package virt-v2v there (its user needs it in its PATH), or send the \
                 disks as they are with bw.p2v=ssh://…",
            ));
        }
        if self.missing.iter().any(|name| name == "sudo") {
            return Err(Trouble::new(
                "p2v.sudo is given, and sudo asks for a password there or is not installed",
                "USER ALL=(ALL) NOPASSWD: ALL in its sudoers, or log in as root",
            ));
        }
        match numbers(&self.version) {
            Some((major @ 1..=2, minor, _)) if (major, minor) >= OLDEST => {}
            _ => {
                return Err(Trouble::new(
                    &format!(
                        "the server's virt-v2v is of a version that is not known: {:?}",
                        self.version
                    ),
                    "versions 1.28 to 2.x read this machine's description",
                ));
            }
        }
        if !self.can.iter().any(|line| line == "libguestfs-rewrite") {
            return Err(Trouble::new(
                "the server's virt-v2v does not say that it can convert (libguestfs-rewrite)",
                "run virt-v2v --machine-readable there",
            ));
        }
        let outputs: Vec<&str> =
            self.can.iter().filter_map(|line| line.strip_prefix("output:")).collect();
        if !outputs.is_empty() && !outputs.contains(&output) {
            return Err(Trouble::new(
                &format!("the server's virt-v2v has no output {output:?}"),
                &format!("p2v.o= takes one of {}", outputs.join(", ")),
            ));
        }
        Ok(())
    }

    /// What is to be known of an old version.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let old = numbers(&self.version)? < FRESH;
        old.then(|| {
            format!(
                "{} finds no kernel in Enterprise Linux 9 and its like; 2.3.4 and later do",
                self.version
            )
        })
    }
}

/// `virt-v2v 2.2.0` and the like, also with `rhel=9` behind.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let rest = version.strip_prefix("virt-v2v ")?;
    let mut parts = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut next = || parts.next().and_then(Result::ok);
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// One conversion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conversion {
    /// The guest's name.
    pub name: String,
    /// `physical.xml`.
    pub xml: String,
    /// The ports in it, at which the disks are.
    pub ports: Vec<u16>,
    /// Run it by sudo.
    pub sudo: bool,
    /// Arguments for virt-v2v: the output, and what else there is.
    pub args: Vec<String>,
    /// Further files for the directory: names, and what is in them.
    pub files: Vec<(&'static str, String)>,
}

impl Conversion {
    /// The script. The shell is replaced by the conversion: what stands behind it on the
    /// standard input only shows that this machine is still there.
    #[must_use]
    pub fn script(&self) -> String {
        let mut out = String::from(
            "d=$(mktemp -d \"/tmp/virt-p2v-$(date +%Y%m%d)-XXXXXXXX\") || { say failed; exit 1; }\n\
             cd \"$d\" || exit 1\n\
             say directory \"$d\"\n\
             date > time\n",
        );
        let own = [
            ("name", format!("{}\n", self.name)),
            ("physical.xml", self.xml.clone()),
            ("virt-v2v-wrapper.sh", self.wrapper()),
        ];
        let more = self.files.iter().map(|(name, text)| (*name, text.as_str()));
        for (name, text) in own.iter().map(|(name, text)| (*name, text.as_str())).chain(more) {
            out += &format!("cat > {name} <<'{END}' || exit 1\n");
            for line in text.lines().filter(|line| *line != END) {
                out += line;
                out.push('\n');
            }
            out += END;
            out.push('\n');
        }
        out += "chmod 0755 virt-v2v-wrapper.sh\nexec sh ./virt-v2v-wrapper.sh\n";
        out
    }

    /// virt-v2v's command: what virt-p2v's own wrapper gives it.
    fn command(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if self.sudo {
            words.extend(["sudo", "-n"].map(ToString::to_string));
        }
        words.extend(["virt-v2v", "-v", "-x", "-i", "libvirtxml"].map(ToString::to_string));
        words.extend(self.args.iter().map(|word| quoted(word)));
        words.extend(["--root", "first", "physical.xml"].map(ToString::to_string));
        words.join(" ")
    }

    /// virt-v2v reads for the conversion what it reads again for the copy: half of a system. An
    /// nbdkit of the server, which virt-v2v needs itself, keeps what is read until the copy
    /// begins. Without one the disks are read as they come.
    fn keeper(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
        format!(
            "for port in {}; do\n\
             for try in 1 2 3 4 5; do\n\
             own=$((30000 + $(od -An -N2 -tu2 /dev/urandom) % 20000))\n\
             rm -f \"keeper-$port\"\n\
             {{ nbdkit -f --exit-with-parent -i 127.0.0.1 -p $own -P \"keeper-$port\" --filter=cow nbd \
             hostname=localhost port=$port shared=true cow-on-read=\"$PWD/keep\"\n\
             echo ended > \"keeper-$port\"; }} >/dev/null 2>\"keeper-log-$port\" 3<&- &\n\
             until [ -s \"keeper-$port\" ]; do sleep 0.1; done\n\
             [ \"$(cat \"keeper-$port\")\" = ended ] && continue\n\
             keepers=\"$keepers $!\"\n\
             sed \"s/port=\\\"$port\\\"/port=\\\"$own\\\"/\" physical.xml > new.xml && mv new.xml physical.xml\n\
             break\n\
             done\n\
             done\n",
            ports.join(" ")
        )
    }

    fn wrapper(&self) -> String {
        let (command, sudo) = (self.command(), if self.sudo { "sudo -n " } else { "" });
        let keeper = if self.ports.is_empty() { String::new() } else { self.keeper() };
        format!(
            "#!/bin/sh\n\
             # Converts a physical machine, whose disks come through the ssh connection.\n\
             cd \"$(dirname \"$0\")\" || exit 1\n\
             log=virt-v2v-conversion-log.txt\n\
             # What it says is looked at below.\n\
             LC_ALL=C; export LC_ALL\n\
             echo 99 > status\n\
             export > environment\n\
             virt-v2v --version > v2v-version 2>&1 </dev/null\n\
             exec 3<&0 </dev/null\n\
             keepers=\n\
             : > keep\n\
             {keeper}(\n\
             {command} 2>> \"$log\" </dev/null 3<&- &\n\
             v2v=$!\n\
             # The machine is gone: the conversion cannot go on.\n\
             ( cat <&3 >/dev/null 2>&1; {sudo}kill \"$v2v\" 2>/dev/null ) &\n\
             watch=$!\n\
             # A shell tells of a killed program, perhaps to an end that is gone.\n\
             wait \"$v2v\" 2>/dev/null\n\
             echo $? > status\n\
             kill \"$watch\" 2>/dev/null\n\
             ) | while IFS= read -r line; do\n\
             case \"$line\" in *'Copying disk '*) rm -f keep;; esac\n\
             printf '%s\\n' \"$line\"\n\
             done | tee -a \"$log\"\n\
             rm -f keep\n\
             [ -z \"$keepers\" ] || kill $keepers 2>/dev/null\n\
             s=$(cat status)\n\
             if [ \"$s\" -ne 0 ]; then echo \"the last lines of the log:\"; tail -n 50 \"$log\"; \
             grep '^virt-v2v: error: ' \"$log\" | tail -n 3; fi\n\
             echo \"{MARK}status $s\"\n\
             exit \"$s\"\n"
        )
    }
}

/// What the output of programs at the server means.
const TROUBLES: [Meaning; 7] = [
    (
        &["No space left on device"],
        "a disk of the server is full",
        "make room there, or choose another place (p2v.os, or the path of ssh://)",
    ),
    (
        &["Disk quota exceeded"],
        "the user's quota at the server is used up",
        "make room there, or log in as another user",
    ),
    (
        &["No root device found"],
        "virt-v2v found no system on the disks",
        "it reads neither LUKS without its key nor BitLocker; Windows must have been shut down, \
         not hibernated (shutdown /s /t 0); bw.p2v=ssh://… sends the disks as they are",
    ),
    (
        &["inspection could not detect the source guest"],
        "virt-v2v found no system that it knows on the disks",
        "bw.p2v=ssh://… sends the disks as they are",
    ),
    (
        &["no bootloader detected"],
        "virt-v2v found no boot loader that it knows; with UEFI it looks for a grub.cfg below EFI/ of \
         the EFI system partition",
        "grub-install of the distribution's signed GRUB writes one; or bw.p2v.edit with \
         bw.p2v=nbd://… or ssh://…, which needs none",
    ),
    (
        &["supermin exited with error"],
        "libguestfs on the server cannot build its appliance: it finds no kernel that the user may read",
        "install a kernel package there, and chmod 0644 /boot/vmlinuz-* on Debian and Ubuntu; \
         libguestfs-test-tool says whether it works",
    ),
    (&["Permission denied"], "the user may not write there", "log in as another user, or p2v.sudo"),
];

/// What a line of a program at the server says about why it failed.
#[must_use]
pub fn trouble(line: &str) -> Option<Trouble> {
    Trouble::of_line(&TROUBLES, line)
}

/// The line of a program's output that says most of why it failed: the last that names an
/// error, or the last of all.
#[must_use]
pub fn telling(lines: &[String]) -> Option<&str> {
    let named = lines.iter().rev().find(|line| line.contains("error: "));
    named.or(lines.last()).map(String::as_str)
}

/// The command that takes an archive of [`crate::tar`] and makes a file of it. `path` is a
/// directory, which then gets `name`, or the file itself. Nothing has that name before it is
/// whole; the last report is `sha256 DIGEST FILE`.
#[must_use]
pub fn receive(path: &str, name: &str) -> String {
    let script = format!(
        "say() {{ echo \"{MARK}$*\"; }}\n\
         LC_ALL=C; export LC_ALL\n\
         p={}; n={}\n\
         if [ -d \"$p\" ]; then t=\"${{p%/}}/$n\"; else t=\"$p\"; fi\n\
         case \"$t\" in */*) d=\"${{t%/*}}\";; *) d=.;; esac\n\
         if [ -e \"$t\" ]; then say exists \"$t\"; exit 17; fi\n\
         if ! [ -d \"${{d:-/}}\" ]; then say nodirectory \"$d\"; exit 18; fi\n\
         w=$(mktemp -d \"$d/.p2v-XXXXXXXX\") || exit 19\n\
         trap 'rm -rf \"$w\"' EXIT\n\
         trap 'exit 20' HUP INT TERM PIPE\n\
         say ready \"$t\"\n\
         tar -xSf - -C \"$w\" || exit 21\n\
         f=\"$w/disk\"\n\
         sum=$(sha256sum < \"$f\") || exit 22\n\
         mv \"$f\" \"$t\" || exit 23\n\
         say sha256 \"${{sum%% *}}\" \"$t\"\n",
        quoted(path),
        quoted(name)
    );
    format!("exec sh -c {}", quoted(&script))
}

/// The name of the one file in such an archive.
pub const MEMBER: &str = "disk";

/// Reads any reports; for fuzzers.
///
/// # Panics
/// When more is kept than has a bound.
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut probe = Probe::default();
    for line in text.lines() {
        probe.take(line.strip_prefix(MARK).unwrap_or(line));
        let _ = trouble(line);
    }
    assert!(probe.can.len() <= 256 && probe.missing.len() <= 256);
    let _ = (probe.judge("local"), probe.advice());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Output, Stdio};

    fn run(shell: &str, script: &str, input: &[u8]) -> Output {
        run_until(shell, script, input, true)
    }

    /// With `end`, the standard input ends behind the input, as when the machine is gone.
    fn run_until(shell: &str, script: &str, input: &[u8], end: bool) -> Output {
        let mut sh = Command::new(shell);
        sh.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut sh = sh.stderr(Stdio::piped()).spawn().unwrap();
        let mut to = sh.stdin.take().unwrap();
        // A script that refuses does not read.
        let _ = to.write_all(input);
        let held = (!end).then_some(to);
        let done = sh.wait_with_output().unwrap();
        drop(held);
        done
    }

    fn shells() -> impl Iterator<Item = &'static str> {
        ["/bin/sh", "/bin/bash", "/bin/dash"]
            .into_iter()
            .filter(|shell| std::path::Path::new(shell).exists())
    }

    #[test]
    fn a_file_appears_when_it_is_whole_and_none_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's a place");
        std::fs::create_dir(&path).unwrap();
        let map = crate::extents::Extents::new(1 << 20, std::iter::once(0..4096));
        let mut archive = crate::tar::head(MEMBER, &map);
        archive.extend([7; 4096]);
        archive.extend(crate::tar::tail(&map));
        for (n, shell) in shells().enumerate() {
            let name = format!("web-{n}.img");
            let script = receive(path.to_str().unwrap(), &name);
            // Cut in the middle: nothing is left of it.
            let cut = run(shell, &script, &archive[..3000]);
            assert_eq!(cut.status.code(), Some(21), "{cut:?}");
            assert_eq!(std::fs::read_dir(&path).unwrap().count(), n);
            let done = run(shell, &script, &archive);
            let text = String::from_utf8(done.stdout).unwrap();
            let last = text.lines().last().unwrap();
            assert!(last.starts_with("bellwether-p2v: sha256 "), "{text}");
            assert!(last.ends_with(&name), "{text}");
            assert_eq!(std::fs::read(path.join(&name)).unwrap().len(), 1 << 20);
            let again = run(shell, &script, &archive);
            assert_eq!(again.status.code(), Some(17));
            let none = run(shell, &receive("/nonexistent/x/y", &name), &archive);
            assert_eq!(none.status.code(), Some(18));
        }
    }

    /// The last lines of virt-v2v 2.2.0 where no kernel could be read: the reason is not last.
    #[test]
    fn the_line_that_tells_is_found() {
        let lines = ["virt-v2v: error: no kernel", "rm -rf -- '/tmp/x'", "libguestfs: closing"];
        let lines = lines.map(ToString::to_string);
        assert_eq!(telling(&lines), Some("virt-v2v: error: no kernel"));
        assert_eq!((telling(&lines[1..]), telling(&[])), (Some("libguestfs: closing"), None));
        let supermin =
            "virt-v2v: error: libguestfs error: /usr/bin/supermin exited with error status 1";
        assert!(trouble(supermin).unwrap().remedy.contains("chmod 0644"));
        let loader = trouble("virt-v2v: error: no bootloader detected").unwrap();
        assert!(loader.why.contains("grub.cfg below EFI/"));
    }

    #[test]
    fn words_stay_words() {
        for shell in shells() {
            let text = "a'b \"$(touch /tmp/x)\" `id` \\ ;&|";
            let out = run(shell, &format!("printf %s {}", quoted(text)), b"");
            assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
        }
    }

    #[test]
    fn a_probe_is_judged() {
        let mut probe = Probe::default();
        for report in ["version virt-v2v 2.2.0", "can libguestfs-rewrite", "can output:null"] {
            assert!(!probe.take(report));
        }
        assert!(probe.take("probed"));
        assert_eq!(probe.judge("null"), Ok(()));
        assert!(probe.judge("rhv").unwrap_err().to_string().contains("one of null"));
        assert!(probe.advice().unwrap().contains("2.3.4"));
        let fresh = Probe { version: "virt-v2v 2.7.1rhel=9,release=2.el9".into(), ..probe.clone() };
        assert_eq!((fresh.advice(), fresh.judge("null")), (None, Ok(())));
        let odd = Probe { version: "virt-v2v 0.9".into(), ..probe.clone() };
        assert!(odd.judge("null").is_err());
        let none = Probe { missing: vec!["virt-v2v".into()], ..Probe::default() };
        assert!(none.judge("null").unwrap_err().to_string().contains("install the package"));
    }

    /// A stand-in of virt-v2v in the shell that is there: its files, its output, its status.
    #[test]
    fn the_wrapper_keeps_virt_p2v_s_files() {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("virt-v2v");
        std::fs::write(
            &fake,
            "#!/bin/sh\n[ \"$1\" = --version ] && { echo virt-v2v 2.2.0; exit 0; }\n\
             [ \"$1\" = --machine-readable ] && { echo libguestfs-rewrite; exit 0; }\n\
             echo \"args: $*\"; echo 'virt-v2v: error: no guest' >&2; seq 99 >&2; echo debug >&2; cat; exit 9\n",
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let conversion = Conversion {
            name: "web01".into(),
            xml: "<domain/>\n".into(),
            args: vec!["-o".into(), "null".into(), "a b".into()],
            // The reason stands far before the end of the log, as in a real one.
            files: vec![("dmesg", format!("one\n{END}\ntwo\n"))],
            ..Conversion::default()
        };
        let path = format!("PATH={}:$PATH\n", dir.path().display());
        let script = [path, probe(false), conversion.script()].concat();
        for shell in shells() {
            let done = run_until(shell, &format!("exec {shell} -s"), script.as_bytes(), false);
            assert_eq!(done.status.code(), Some(9), "{done:?}");
            let text = String::from_utf8(done.stdout).unwrap();
            let reports: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix(MARK)).collect();
            assert_eq!(
                reports[..3],
                ["version virt-v2v 2.2.0", "can libguestfs-rewrite", "probed"]
            );
            let place = reports[3].strip_prefix("directory ").unwrap();
            assert!(place.starts_with("/tmp/virt-p2v-20"), "{place}");
            assert!(
                text.contains("args: -v -x -i libvirtxml -o null a b --root first physical.xml")
            );
            let file = |name: &str| std::fs::read_to_string(format!("{place}/{name}")).unwrap();
            assert_eq!((file("status").as_str(), file("name").as_str()), ("9\n", "web01\n"));
            assert_eq!(
                (file("dmesg").as_str(), file("physical.xml").as_str()),
                ("one\ntwo\n", "<domain/>\n")
            );
            assert_eq!(file("v2v-version"), "virt-v2v 2.2.0\n");
            assert!(file("virt-v2v-conversion-log.txt").contains("debug"));
            // What comes by tee may stand between the lines that are written to the log itself.
            let errors: Vec<&str> =
                text.lines().filter(|line| !line.starts_with("args:")).collect();
            assert!(errors.windows(3).any(|lines| lines == ["98", "99", "debug"]), "{text}");
            assert!(!errors.contains(&"40"), "{text}");
            assert!(text.contains("virt-v2v: error: no guest"), "{text}");
            assert!(!file("time").is_empty() && file("environment").contains("PATH"));
            std::fs::remove_dir_all(place).unwrap();
        }
    }

    #[test]
    fn a_machine_that_is_gone_ends_the_conversion() {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("virt-v2v");
        let text = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nexec sleep 100\n";
        std::fs::write(&fake, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&fake, mode).unwrap();
        let path = format!("PATH={}:$PATH\nsay() {{ echo \"{MARK}$*\"; }}\n", dir.path().display());
        let script = [path, Conversion::default().script()].concat();
        for shell in shells() {
            let done = run(shell, &format!("exec {shell} -s"), script.as_bytes());
            assert_eq!(done.status.code(), Some(128 + 15), "{done:?}");
            let text = String::from_utf8(done.stdout).unwrap();
            let place =
                text.lines().find_map(|line| line.strip_prefix("bellwether-p2v: directory "));
            std::fs::remove_dir_all(place.unwrap()).unwrap();
        }
    }
}
