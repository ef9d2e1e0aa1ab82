//! A simulated room for Dolly+: 1 to 64 hosts in a ring with delay, where hosts go in
//! every state, fall silent, or are slow. The promise: everybody else has the right
//! bytes, verified, and the server knows who has not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod simulated;

use clone::outcome::Standing;
use common::payload;
use simulated::{At, Fate, MS, ON_THE_WAY, Outcome, SECOND, SIZES, run};
use std::collections::BTreeSet;
use std::time::Duration;

/// Three files, the second of nothing, of 30000 bytes in all.
fn files() -> Vec<Vec<u8>> {
    vec![payload(0, 17_000), Vec::new(), payload(5, 13_000)]
}

fn standings(outcome: &Outcome) -> Vec<Standing> {
    let sent = outcome.server.as_ref().expect("the server ends").as_ref();
    sent.expect("it has sent").clients.iter().map(|c| c.standing.clone()).collect()
}

/// All but those in `except` have everything, verified, and the server knows.
fn all_verified(outcome: &Outcome, files: &[Vec<u8>], except: &[usize], what: &str) {
    let said = || outcome.said.join("\n");
    let standings = match &outcome.server {
        Some(Ok(_)) => standings(outcome),
        other => panic!("{what}: the server {other:?}\n{}", said()),
    };
    for (i, got) in (1..).zip(&outcome.clients) {
        if except.contains(&i) {
            // An old program is none of them.
            let known = ![Standing::Silent, Standing::Acknowledged].contains(&standings[i - 1]);
            assert!(known, "{what}: {i} {:?}\n{}", standings[i - 1], said());
            continue;
        }
        let fine = matches!(got, Some(Ok(got)) if got.verified());
        assert!(fine, "{what}: {i} {got:?}\n{}", said());
        assert_eq!(standings[i - 1], Standing::Verified, "{what}: {i}\n{}", said());
        let held: Vec<&Vec<u8>> = outcome.files[i].values().collect();
        assert!(held.into_iter().eq(files), "{what}: {i} has other bytes");
    }
}

#[test]
fn rings_of_all_sizes() {
    for n in [1, 2, 3, 8, 64] {
        let outcome = run(n, &files(), &[], n as u64);
        all_verified(&outcome, &files(), &[], &format!("{n} hosts"));
        assert_eq!(outcome.files[n].len(), 3);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = || run(5, &files(), &[(3, Fate::Dies(At::Bytes(9000)))], 4);
    let (a, b) = (run(), run());
    assert_eq!((a.took, a.said), (b.took, b.said));
}

/// How long a run takes in which nothing happens.
fn undisturbed(n: usize) -> Duration {
    run(n, &files(), &[], 0).took
}

/// Each host of four is lost once in each millisecond while the ring is built and the
/// lists go round, and in each few after that: the others do not need it, whatever it
/// and they were doing.
fn lost_at_any_time(fate: fn(At) -> Fate, limit: Duration) {
    let files = files();
    let took = undisturbed(4).as_millis() as u32;
    let building = 0..100;
    let flowing = (100..took).step_by(7);
    for at in building.chain(flowing).map(|ms| MS * ms) {
        for victim in 1..=4 {
            let seed = at.as_millis() as u64;
            let outcome = run(4, &files, &[(victim, fate(At::Time(at)))], seed);
            let what = format!("{victim} is lost at {at:?}");
            all_verified(&outcome, &files, &[victim], &what);
            assert!(outcome.took < limit, "{what}: {:?}", outcome.took);
        }
    }
}

#[test]
fn a_host_that_dies_at_any_time_is_not_missed() {
    lost_at_any_time(Fate::Dies, SECOND * 20);
}

#[test]
fn a_host_that_falls_silent_at_any_time_is_not_missed() {
    lost_at_any_time(Fate::Silent, SECOND * 120);
}

/// Each tenth of the data, in a long ring.
#[test]
fn a_host_that_is_lost_at_each_tenth() {
    let files = files();
    for tenth in 0..=10 {
        let at = At::Bytes(30_000 * tenth / 10);
        for (victim, fate) in [(1 + tenth as usize, Fate::Dies(at)), (12, Fate::Silent(at))] {
            let outcome = run(12, &files, &[(victim, fate)], tenth);
            all_verified(&outcome, &files, &[victim], &format!("{victim} at {tenth}"));
        }
    }
}

#[test]
fn two_neighbours_at_once() {
    let files = files();
    let steps = undisturbed(5).as_millis() as u32 / 10;
    for victim in 1..=4 {
        for step in 0..=steps {
            let at = At::Time(MS * 10 * step);
            let fates = [(victim, Fate::Dies(at)), (victim + 1, Fate::Silent(at))];
            let outcome = run(5, &files, &fates, u64::from(step));
            let what = format!("{victim} and the next at {at:?}");
            all_verified(&outcome, &files, &[victim, victim + 1], &what);
        }
    }
}

#[test]
fn hosts_that_are_not_there_are_left_out() {
    let zero = At::Time(Duration::ZERO);
    for absent in [&[2][..], &[1], &[4], &[1, 2], &[2, 4], &[1, 3, 4]] {
        let fates: Vec<_> = absent.iter().map(|i| (*i, Fate::Dies(zero))).collect();
        let outcome = run(4, &files(), &fates, 1);
        all_verified(&outcome, &files(), absent, &format!("{absent:?}"));
        for i in absent {
            assert_eq!(standings(&outcome)[i - 1], Standing::Absent);
        }
    }
}

/// The ring is as fast as its slowest host, and no host runs ahead of it by more than
/// its memory.
#[test]
fn a_slow_host_slows_all() {
    let files = vec![payload(0, 100_000)];
    let quick = run(4, &files, &[], 0).took;
    for slow in 1..=4 {
        let outcome = run(4, &files, &[(slow, Fate::Slow(100, MS))], 0);
        all_verified(&outcome, &files, &[], &format!("{slow} is slow"));
        assert!(outcome.took > quick && outcome.took < SECOND * 10, "{:?}", outcome.took);
        let bound = SIZES.lead + 2 * u64::from(SIZES.chunk) + ON_THE_WAY as u64;
        assert!(outcome.ahead <= bound, "{} bytes ahead", outcome.ahead);
        assert!(outcome.words < 1000, "{} bytes of words", outcome.words);
    }
}

#[test]
fn a_full_disk_or_a_wrong_copy_is_that_hosts_alone() {
    let files = files();
    for bad in 1..=4 {
        for fate in [Fate::Full(9000), Fate::Spoils] {
            let outcome = run(4, &files, &[(bad, fate)], 2);
            all_verified(&outcome, &files, &[bad], &format!("{bad} {fate:?}"));
            let standing = &standings(&outcome)[bad - 1];
            let got = &outcome.clients[bad - 1];
            match fate {
                Fate::Full(_) => {
                    assert_eq!(*standing, Standing::Failed("no space left".to_owned()));
                    assert!(matches!(got, Some(Err(clone::Error::Store { .. }))), "{got:?}");
                }
                _ => {
                    assert_eq!(*standing, Standing::Differs);
                    assert!(matches!(got, Some(Err(clone::Error::Mismatch { .. }))), "{got:?}");
                }
            }
        }
    }
}

/// Without a server no host claims anything, and none waits for ever.
#[test]
fn a_server_that_is_lost_at_any_time_ends_it_for_all() {
    let took = undisturbed(3);
    for (step, fate) in [(7, Fate::Dies as fn(At) -> Fate), (23, Fate::Silent)] {
        let mut at = Duration::ZERO;
        while at < took {
            let outcome = run(3, &files(), &[(0, fate(At::Time(at)))], 5);
            for got in &outcome.clients {
                let got = got.as_ref().expect("it ends");
                let fair = match got {
                    Ok(got) => got.verified(),
                    Err(e) => {
                        matches!(e, clone::Error::Gone { .. } | clone::Error::Stalled { .. })
                    }
                };
                assert!(fair, "at {at:?}: {got:?}");
            }
            at += MS * step;
        }
    }
}

/// A program that stands still while its kernel acknowledges everything cannot be told
/// from a slow one: there is an end, with a word, after the time that was set.
#[test]
fn a_host_that_stands_still_ends_it_for_all() {
    for hangs in 1..=3 {
        for tenth in [1, 5] {
            let at = At::Bytes(3000 * tenth);
            let outcome = run(3, &files(), &[(hangs, Fate::Hangs(at))], tenth);
            let server = outcome.server.as_ref().expect("it ends");
            assert!(matches!(server, Err(clone::Error::Stalled { .. })), "{server:?}");
            for (i, got) in (1..).zip(&outcome.clients) {
                assert!(i == hangs || got.as_ref().is_some_and(Result::is_err), "{i}: {got:?}");
            }
        }
    }
}

/// A host that was passed over and wakes up takes no other host's place. The
/// last one's disk is so slow that all this happens while data flows.
#[test]
fn a_host_that_comes_back_disturbs_no_other() {
    for victim in 1..=4 {
        for step in (0..=20).step_by(2) {
            for sleep in [5, 23, 60] {
                let fates = [
                    (victim, Fate::Sleeps(At::Time(MS * 2300 * step), SECOND * sleep)),
                    (5, Fate::Slow(300, SECOND)),
                ];
                let outcome = run(5, &files(), &fates, u64::from(step));
                let what = format!("{victim} sleeps {sleep} s at step {step}");
                all_verified(&outcome, &files(), &[victim], &what);
                let got = &outcome.clients[victim - 1];
                assert!(got.is_some(), "{what}");
                assert!(!matches!(got, Some(Err(clone::Error::Mismatch { .. }))), "{what}");
            }
        }
    }
}

/// Host 2 is passed over, wakes, and leaves host 3 to host 1; which then dies. Host 2 is
/// asked again, and takes care of host 3 again.
#[test]
fn a_host_that_was_passed_over_is_taken_back() {
    let fates = [
        (2, Fate::Sleeps(At::Time(SECOND * 20), SECOND * 26)),
        (1, Fate::Dies(At::Time(SECOND * 50))),
        (5, Fate::Slow(150, SECOND)),
    ];
    let files = [payload(0, 40_000)];
    let outcome = run(5, &files, &fates, 3);
    all_verified(&outcome, &files, &[1], "taken back");
    let said = |text: &str| outcome.said.iter().any(|s| s.starts_with(text));
    assert!(said("h1: h2 is passed over") && said("h0: goes on with h2"), "{:?}", outcome.said);
}

/// Up to three misfortunes at once: who is not hit has everything.
#[test]
fn random_misfortunes() {
    for seed in 1..=300u64 {
        let mut random = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        let n = 2 + below(7);
        let mut fates = Vec::new();
        for _ in 0..1 + below(3) {
            let at = match below(2) {
                0 => At::Time(MS * below(400) as u32),
                _ => At::Bytes(below(31_000)),
            };
            let fate = match below(4) {
                0 => Fate::Dies(at),
                1 => Fate::Silent(at),
                2 => Fate::Slow(300, MS),
                _ => Fate::Full(9000),
            };
            fates.push((1 + below(n) as usize, fate));
        }
        let outcome = run(n as usize, &files(), &fates, seed);
        let hit: BTreeSet<usize> =
            fates.iter().filter(|f| !matches!(f.1, Fate::Slow(..))).map(|f| f.0).collect();
        let hit: Vec<usize> = hit.into_iter().collect();
        if hit.len() < n as usize {
            all_verified(&outcome, &files(), &hit, &format!("{seed}: {n}, {fates:?}"));
        }
    }
}
