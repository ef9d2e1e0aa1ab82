//! Steps that a plan needs and that not every `/init` has.
//!
//! [`needs`] is the one place that says what a plan asks for. `/init` compares it with
//! the steps that it was built with and refuses, or gives a wish up, before it loads a
//! driver; `bellwether explain --initrd` compares it with what the image's `/init` says
//! of itself ([`Steps::note`]). Both use [`Needs::verdict`].
//!
//! It knows the plan only. That an image is compressed shows when it is read:
//! [`Steps::EXPAND`] is refused then.

use alloc::string::String;
use alloc::vec::Vec;

use crate::parse::GRAMMARS;
use crate::plan::{
    BootPlan, Dialect, Integrity, Payload, PersistPlan, SnapshotStore, Source, Then, ToRam, Upper,
    Warning, Writable,
};
use crate::table::text;

/// A set of steps, and of dialects that are read.
///
/// The numbers are stored in `/init` programs: a step keeps its bit for ever, and new
/// ones get new bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps(u64);

/// The section of `/init` that says which steps it has.
pub const NOTE: &str = ".note.bellwether\0";

/// The bits from here on are the dialects'.
const FIRST_DIALECT: u32 = 32;

macro_rules! steps {
    ($($name:ident $bit:literal $words:literal $without:literal;)*) => {
        impl Steps {
            $(#[doc = concat!("Bit ", stringify!($bit), ": ", $words, ".")]
            pub const $name: Self = Self(1 << $bit);)*
            /// Every step that this build of [`crate::parse`] makes plans of, without dialects.
            pub const EVERY_STEP: Self = {
                let all = Self(0 $(| 1 << $bit)*);
                if cfg!(feature = "p2v") { all } else { all.without(Self::P2V) }
            };
        }
        /// A line for each step, by bits: its name for people, and how the boot goes on
        /// without it; empty when it never does. One text is smaller than a table of two.
        const ROWS: &str = concat!($($words, "\t", $without, "\n"),*);
    };
}

steps! {
    FETCH 0 "downloads" "only the other sources are tried";
    NBD 1 "network block devices" "only the other sources are tried";
    NVME 2 "NVMe over TCP" "only the other sources are tried";
    CIFS 3 "CIFS shares" "only the other sources are tried";
    CLONE 4 "receiving a copy of a disk" "only the other sources are tried";
    UNPACK 5 "unpacking archives" "only the other sources are tried";
    EXPAND 6 "expanding compressed images" "";
    CHECK 7 "checking digests and media" "";
    VERITY 8 "dm-verity" "";
    TO_RAM 9 "copying to memory" "the medium stays in use";
    KEEP 10 "keeping changes" "changes stay in memory and are lost at power-off";
    SNAPSHOT 11 "device-mapper snapshots" "";
    SETUP 12 "setting up the live session" "the live system has no user and no settings of this line";
    STAY 13 "a live system inside the initramfs" "";
    SHELL 14 "stopping for a shell" "the boot does not stop";
    DEADLINE 15 "a time limit for the whole boot" "the boot takes as long as it takes";
    P2V 16 "sending this machine's disks" "";
}

impl Steps {
    /// No step.
    pub const NONE: Self = Self(0);

    /// The dialects that this build of [`crate::parse`] reads.
    pub const READ_HERE: Self = {
        let mut all = Self::NONE;
        let mut n = 0;
        while n < GRAMMARS.len() {
            #[expect(clippy::indexing_slicing, reason = "no other way in a constant")]
            let grammar = GRAMMARS[n];
            all = all.with(Self::dialect(grammar.dialect));
            n += 1;
        }
        all
    };

    /// Every step, and every dialect.
    pub const ALL: Self =
        Self(Self::EVERY_STEP.0 | (((1 << Dialect::ALL.len()) - 1) << FIRST_DIALECT));

    /// Reading this dialect.
    #[must_use]
    pub const fn dialect(dialect: Dialect) -> Self {
        Self(1 << (FIRST_DIALECT + dialect as u32))
    }

    /// As an ELF note (System V gABI chapter 5, "Note Section"): lengths of name and
    /// content, type, name, content. `/init` has it in its section [`NOTE`].
    #[must_use]
    pub const fn note(self) -> [u8; 32] {
        let mut note = *b"\x0b\0\0\0\x08\0\0\0\x01\0\0\0Bellwether\0\0........";
        if let Some(content) = note.last_chunk_mut() {
            *content = self.0.to_le_bytes();
        }
        note
    }

    /// From such a note. Unknown bits stay: a newer `/init` has more steps. `None` for
    /// a note of another form.
    #[must_use]
    pub fn from_note(note: &[u8]) -> Option<Self> {
        let found = Self(u64::from_le_bytes(*note.last_chunk()?));
        (found.note() == note).then_some(found)
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, those: Self) -> Self {
        Self(self.0 & !those.0)
    }

    /// Whether all of these are in it.
    #[must_use]
    pub const fn has(self, all: Self) -> bool {
        all.0 & !self.0 == 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of the steps in it, and how a boot goes on without them.
    fn rows(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let rows = ROWS.lines().enumerate().filter(move |(bit, _)| self.has(Self(1 << bit)));
        rows.filter_map(|(_, row)| row.split_once('\t'))
    }
}

/// What a plan needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// The boot fails without these.
    pub must: Steps,
    /// The line asks for these, and the boot goes on without.
    pub wish: Steps,
    /// The same for each source of the root; the boot fails when no source is left.
    pub sources: Vec<Steps>,
}

/// What this plan needs beyond what every `/init` does.
#[must_use]
pub fn needs(plan: &BootPlan) -> Needs {
    let mut needs = Needs { must: Steps::dialect(plan.dialect), ..Needs::default() };
    if let Then::Clone(_) = plan.handoff.then {
        needs.must(Steps::CLONE);
    }
    #[cfg(feature = "p2v")]
    if let Then::P2v(_) | Then::AskP2v = plan.handoff.then {
        needs.must(Steps::P2V);
    }
    needs.sources = plan.root.sources.iter().map(source).collect();
    if plan.stays() {
        needs.must(Steps::STAY);
    }
    for check in &plan.root.integrity {
        needs.must(match check {
            Integrity::Verity { .. } => Steps::VERITY,
            _ => Steps::CHECK,
        });
    }
    // `Auto` is the dialect's own habit: the line does not ask for it.
    if let ToRam::Medium | ToRam::Image(_) = plan.root.to_ram {
        needs.wish(Steps::TO_RAM);
    }
    match &plan.writable {
        Writable::Union(union) | Writable::ByImage { union, .. } => {
            if let Upper::Persistent(persist) = &union.upper {
                needs.keep(persist);
            }
        }
        Writable::DmSnapshot(snapshot) => {
            needs.must(Steps::SNAPSHOT);
            if let SnapshotStore::Persistent(persist) = &snapshot.store {
                needs.keep(persist);
            }
        }
        Writable::AsIs { .. } | Writable::Directories { .. } => {}
    }
    let set_up = matches!(
        plan.handoff.layout,
        Dialect::Casper | Dialect::Ltsp | Dialect::Stage1 | Dialect::Slax
    );
    if set_up || !plan.handoff.swap.is_empty() {
        needs.wish(Steps::SETUP);
    }
    if !plan.failure.breakpoints.is_empty() {
        needs.wish(Steps::SHELL);
    }
    if plan.failure.deadline.is_some() {
        needs.wish(Steps::DEADLINE);
    }
    needs
}

/// What a source of the root needs.
fn source(source: &Source) -> Steps {
    match source {
        Source::Url(url) if url.payload == Payload::Archive => Steps::FETCH.with(Steps::UNPACK),
        Source::Url(_) | Source::PxeFileList { .. } => Steps::FETCH,
        Source::Nbd(_) => Steps::NBD,
        Source::NvmeTcp(_) => Steps::NVME,
        Source::Cifs(_) => Steps::CIFS,
        Source::Stage2(_) => Steps::CLONE,
        Source::File { on, .. } | Source::Partition { on, .. } => self::source(on),
        Source::Nfs(_)
        | Source::NineP(_)
        | Source::VirtioFs(_)
        | Source::Device(_)
        | Source::Scan(_)
        | Source::Initramfs(_) => Steps::NONE,
    }
}

impl Needs {
    fn must(&mut self, step: Steps) {
        self.must = self.must.with(step);
    }

    fn wish(&mut self, step: Steps) {
        self.wish = self.wish.with(step);
    }

    fn keep(&mut self, persist: &PersistPlan) {
        let steps = Steps::KEEP.with(persist.network.as_ref().map(source).unwrap_or_default());
        if persist.required {
            self.must(steps);
        } else if !persist.silent {
            self.wish(steps);
        }
    }

    /// What of it an `/init` with these steps lacks: the steps that it must refuse the
    /// boot for; if there are none, the steps that it gives up.
    ///
    /// Of a line in a dialect that is not read nothing else is known.
    #[must_use]
    pub fn lacking(&self, has: Steps) -> (Steps, Steps) {
        let mut must = self.must.without(has);
        if !must.without(Steps::EVERY_STEP).is_empty() {
            return (must.without(Steps::EVERY_STEP), Steps::NONE);
        }
        let mut wish = self.wish;
        let mut left = self.sources.is_empty();
        let mut lost = Steps::NONE;
        for source in &self.sources {
            left |= has.has(*source);
            lost = lost.with(*source);
        }
        if left {
            wish = wish.with(lost);
        } else {
            must = must.with(lost.without(has));
        }
        if must.is_empty() { (must, wish.without(has)) } else { (must, Steps::NONE) }
    }

    /// What to tell about an `/init` with these steps: one fatal sentence, or a warning
    /// for each wish that it gives up.
    #[must_use]
    pub fn verdict(&self, has: Steps) -> Vec<Warning> {
        let (must, wish) = self.lacking(has);
        let say = |pieces: &[&str], fatal| Warning {
            word: String::new(),
            message: text(pieces),
            hint: String::from(HINT),
            fatal,
        };
        if must.is_empty() {
            let rows = wish.rows();
            return rows
                .map(|(name, without)| {
                    say(&["going on without ", name, LACKS, "have: ", without], false)
                })
                .collect();
        }
        let unread = Dialect::ALL.into_iter().find(|dialect| must == Steps::dialect(*dialect));
        let refusal = match unread {
            Some(dialect) => {
                say(&["the line is in the words of ", dialect.name(), LACKS, "read"], true)
            }
            None => {
                let mut names = String::new();
                for (name, _) in must.rows() {
                    names.push_str(if names.is_empty() { "" } else { ", " });
                    names.push_str(name);
                }
                say(&["the line needs ", &names, LACKS, "have"], true)
            }
        };
        Vec::from([refusal])
    }
}

/// Between the name of a step and a verb.
const LACKS: &str = ", which the /init of this image does not ";

/// What to do about it.
const HINT: &str = "bellwether build --full puts the full /init in";

impl BootPlan {
    /// Adds what is to tell about an `/init` with these steps to the warnings: the plan
    /// cannot work when one of them is fatal. Adds nothing for an `/init` that has every
    /// step.
    #[inline]
    pub fn judge(&mut self, has: Steps) {
        if !has.has(Steps::ALL) {
            self.warnings.extend(needs(self).verdict(has));
        }
    }
}

#[cfg(all(test, feature = "all"))]
mod tests {
    use super::*;
    use crate::parse::parse_with;
    use crate::table::Grammar;
    use crate::{Context, docs, parse};

    /// The dialects of the small `/init`.
    const SMALL_READS: [Dialect; 5] =
        [Dialect::Kernel, Dialect::Casper, Dialect::LiveBoot, Dialect::Dracut, Dialect::Bellwether];

    fn small() -> Steps {
        SMALL_READS.into_iter().map(Steps::dialect).fold(Steps::NONE, Steps::with)
    }

    /// The plan that the small `/init` makes, before it compares.
    fn parsed_by_small(line: &str) -> BootPlan {
        let reads = |grammar: &&&Grammar| SMALL_READS.contains(&grammar.dialect);
        let grammars: Vec<&'static Grammar> = GRAMMARS.iter().filter(reads).copied().collect();
        parse_with(line, &Context::default(), grammars.leak())
    }

    fn told(line: &str) -> Vec<(bool, String)> {
        let plan = parse(line, &Context::default());
        let verdict = needs(&plan).verdict(small()).into_iter();
        verdict.map(|warning| (warning.fatal, warning.message)).collect()
    }

    #[test]
    fn explain_and_the_machine_say_the_same_of_every_line() {
        let mut refused = 0;
        for case in docs::cases() {
            let explained = parse(case.line, &Context::default());
            for (has, ran) in [
                (small(), parsed_by_small(case.line)),
                (Steps::ALL, parse(case.line, &Context::default())),
            ] {
                let verdict = needs(&explained).verdict(has);
                assert_eq!(verdict, needs(&ran).verdict(has), "{}", case.line);
                let fails = !explained.can_work() || verdict.iter().any(|lack| lack.fatal);
                let mut judged = ran;
                judged.judge(has);
                assert_eq!(fails, !judged.can_work(), "{}", case.line);
                for lack in &verdict {
                    assert_eq!(judged.warnings.iter().filter(|w| *w == lack).count(), 1);
                }
                refused += usize::from(fails && explained.can_work());
            }
        }
        assert!(refused > 50, "{refused}");
    }

    #[test]
    fn a_full_init_changes_no_plan() {
        for case in docs::cases() {
            let plan = parse(case.line, &Context::default());
            let mut judged = plan.clone();
            judged.judge(Steps::ALL);
            assert_eq!(plan, judged);
        }
    }

    /// `explain --initrd` said that a `virt` image carries what such a line asks for.
    #[test]
    fn dialects_that_the_small_init_does_not_read_are_missing() {
        for (line, dialect) in [
            ("from=slax", "slax"),
            ("automatic=method:http,server:10.0.0.1,directory:/cd network:dhcp", "stage1"),
            ("tce=sda1", "tiny-core"),
            ("alpine_dev=sda1:ext4 modules=loop", "alpine"),
            // Only the copy to memory was named.
            ("archisobasedir=arch archisolabel=ARCH copytoram", "archiso"),
            ("ltsp.image=/srv/ltsp/x.img root=/dev/nfs nfsroot=10.0.0.1:/srv", "ltsp"),
            ("knoppix_dir=KNOPPIX", "knoppix"),
        ] {
            let message = format!(
                "the line is in the words of {dialect}, which the /init of this image does not read"
            );
            assert_eq!(told(line), [(true, message)], "{line}");
            // Nothing else is said of a line that is not read.
            let mut plan = parsed_by_small(line);
            plan.judge(small());
            assert_eq!((plan.dialect.name(), plan.warnings.len()), (dialect, 1), "{line}");
        }
    }

    #[test]
    fn the_small_init_refuses_or_gives_up() {
        for (line, fatal, piece) in [
            ("boot=live fetch=http://10.0.0.1/live.squashfs", true, "needs downloads,"),
            ("bw.root=http://10.0.0.1/root.img", true, "needs downloads,"),
            ("bw.root=nbd:10.0.0.1/x", true, "needs network block devices,"),
            ("bw.root=nvme:10.0.0.1/nqn.x", true, "needs NVMe over TCP,"),
            ("bw.root=cifs://10.0.0.1/x", true, "needs CIFS shares,"),
            ("bw.root=LABEL=x bw.clone=dolly bw.disk=/dev/sda", true, "a copy of a disk,"),
            ("bw.root=LABEL=x bw.clone bw.disk=/dev/sda", true, "a copy of a disk,"),
            ("bw.root=LABEL=x bw.snapshot=ram:64M", true, "needs device-mapper snapshots,"),
            ("bw.root=initramfs", true, "inside the initramfs,"),
            ("bw.root=LABEL=x bw.persist=LABEL=y,required", true, "needs keeping changes,"),
            ("boot=live toram", false, "without copying to memory,"),
            ("boot=casper", false, "without setting up the live session,"),
            ("boot=live swap", false, "without setting up the live session,"),
            ("boot=live persistence", false, "without keeping changes,"),
            ("root=/dev/sda1 break=mount", false, "without stopping for a shell,"),
            ("root=/dev/sda1 bw.timeout=60", false, "without a time limit"),
        ] {
            let told = told(line);
            let [(is_fatal, message)] = &told[..] else { panic!("{line}: {told:?}") };
            assert!(*is_fatal == fatal && message.contains(piece), "{line}: {message}");
        }
        for line in ["boot=live netboot=nfs nfsroot=10.0.0.1:/srv/live", "root=/dev/sda1"] {
            assert_eq!(told(line), [], "{line}");
        }
    }

    #[test]
    fn several_needs_are_one_sentence() {
        let check = "0".repeat(64);
        let line = format!("bw.root=http://10.0.0.1/x bw.digest=blake3:{check} bw.verity={check}");
        let message = "the line needs downloads, checking digests and media, dm-verity, which the \
                       /init of this image does not have";
        assert_eq!(told(&line), [(true, message.to_owned())]);
    }

    #[test]
    fn one_source_that_is_left_is_enough() {
        let both = Needs { sources: [Steps::FETCH, Steps::NONE].into(), ..Needs::default() };
        assert_eq!(both.lacking(Steps::NONE), (Steps::NONE, Steps::FETCH));
        assert_eq!(both.lacking(Steps::FETCH), (Steps::NONE, Steps::NONE));
        let none = Needs { sources: [Steps::FETCH, Steps::NBD].into(), ..Needs::default() };
        assert_eq!(none.lacking(Steps::NONE).0, Steps::FETCH.with(Steps::NBD));
        assert_eq!(none.lacking(Steps::NBD), (Steps::NONE, Steps::FETCH));
    }

    /// The numbers are in programs that are out there.
    #[test]
    fn bits_never_move() {
        assert_eq!(small().0, 0x0000_080f_0000_0000);
        assert_eq!(Steps::ALL.0, 0x0000_0fff_0001_ffff);
        assert_eq!(Steps::dialect(Dialect::Slax).0, 1 << 38);
        assert_eq!((Steps::EXPAND.0, Steps::SETUP.0), (1 << 6, 1 << 12));
        assert_eq!(Steps::READ_HERE, Steps::ALL.without(Steps::EVERY_STEP));
        assert_eq!(ROWS.lines().count(), 17);
        for (step, name) in [(Steps::FETCH, "downloads"), (Steps::DEADLINE, "a time limit for")] {
            assert!(step.rows().all(|row| row.0.starts_with(name)) && step.rows().count() == 1);
        }
        let note = small().note();
        assert_eq!(note[..4], 11u32.to_le_bytes());
        assert_eq!(Steps::from_note(&note), Some(small()));
        assert_eq!(Steps::from_note(&note[1..]), None);
        assert_eq!(Steps::from_note(&[0; 32]), None);
    }
}
