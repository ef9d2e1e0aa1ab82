//! The index against its definition: whatever the binary searches find must
//! be what `fnmatch` over every alias finds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use coldplug::index::{Class, Compression, Index, IndexError, fnmatch, normalise_pattern};
use coldplug::load::{Event, Loader, Policy};
use cpio_builder::index::{Builder, ModuleEntry};
use proptest::prelude::*;

/// Lines of real `modules.alias` files: every bus and every kind of pattern.
const REAL: &str = include_str!("aliases.txt");

fn entry(name: &str, aliases: &[String]) -> ModuleEntry {
    ModuleEntry {
        name: name.into(),
        path: format!("lib/modules/6.1.0/kernel/{name}.ko"),
        class: Class::OTHER,
        compression: Compression::None,
        blacklisted: false,
        options: String::new(),
        aliases: aliases.to_vec(),
        deps: vec![],
        soft_pre: vec![],
        soft_post: vec![],
    }
}

/// `(alias, module)` pairs as an index.
fn indexed(pairs: &[(String, usize)], modules: usize) -> Vec<u8> {
    let of = |n| pairs.iter().filter(|(_, m)| *m == n).map(|(a, _)| a.clone()).collect::<Vec<_>>();
    let modules = (0..modules).map(|n| entry(&format!("m{n}"), &of(n))).collect();
    Builder { release: "6.1.0".into(), modules, builtin: vec![] }.build().unwrap()
}

fn found(index: &Index<'_>, modalias: &str) -> Vec<usize> {
    let mut found = vec![];
    index.for_modalias(modalias, &mut |id| found.push(id.index()));
    found
}

fn expected(pairs: &[(String, usize)], modalias: &str) -> Vec<usize> {
    let modalias = modalias.replace('-', "_");
    let fits = |(alias, _): &&(String, usize)| {
        fnmatch(normalise_pattern(alias).as_bytes(), modalias.as_bytes())
    };
    let mut found: Vec<usize> = pairs.iter().filter(fits).map(|(_, n)| *n).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn real_pairs() -> (Vec<(String, usize)>, usize) {
    let mut names: Vec<&str> = vec![];
    let mut pairs = vec![];
    for line in REAL.lines() {
        let (alias, name) = line.strip_prefix("alias ").unwrap().rsplit_once(' ').unwrap();
        let n = names.iter().position(|n| *n == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        pairs.push((alias.to_owned(), n));
    }
    (pairs, names.len())
}

/// A modalias that the pattern matches: wildcards filled in.
fn filled(pattern: &str, fill: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => out.push_str(fill),
            '?' => out.push('0'),
            '[' => {
                out.push(chars.next().unwrap());
                chars.by_ref().find(|c| *c == ']');
            }
            c => out.push(c),
        }
    }
    out
}

#[test]
fn every_real_alias_is_found_as_a_linear_search_finds_it() {
    let (pairs, modules) = real_pairs();
    assert!(pairs.len() > 500 && modules > 100, "{} aliases, {modules} modules", pairs.len());
    let bytes = indexed(&pairs, modules);
    let index = Index::parse(&bytes).unwrap();
    let mut hits = 0;
    for (alias, n) in pairs.iter().step_by(3) {
        for fill in ["", "0", "00001AF4", "-1,k2", ":x:"] {
            let modalias = filled(alias, fill);
            let found = found(&index, &modalias);
            assert_eq!(found, expected(&pairs, &modalias), "{modalias}");
            assert!(found.contains(n), "{modalias}");
            hits += found.len();
            // And near misses.
            for end in [1, 5, modalias.len() / 2] {
                let cut = modalias.get(..modalias.len().saturating_sub(end)).unwrap_or_default();
                assert_eq!(self::found(&index, cut), expected(&pairs, cut), "{cut}");
            }
        }
    }
    assert!(hits > pairs.len() / 3);
}

#[test]
fn an_entry_reads_back() {
    let mut a = entry("virtio-net", &["virtio:d00000001v*".into(), "fs-x".into()]);
    a.class = Class::NET.union(Class::BUS);
    a.compression = Compression::Xz;
    a.blacklisted = true;
    a.options = "napi_tx=0 csum=1".into();
    a.deps = vec![2, 1];
    a.soft_pre = vec![1];
    a.soft_post = vec![2, 0];
    let modules = vec![a, entry("virtio", &[]), entry("zz", &["fs-x".into()])];
    let builtin = vec!["ext4".into(), "crc32c-intel".into(), "ext4".into()];
    let builder = Builder { release: "6.1.0-x".into(), modules, builtin };
    let bytes = builder.build().unwrap();
    assert_eq!(bytes, builder.clone().build().unwrap());

    let index = Index::parse(&bytes).unwrap();
    assert_eq!((index.release(), index.len()), ("6.1.0-x", 3));
    let module = index.module(index.by_name("virtio-net").unwrap());
    assert_eq!(module.name(), "virtio_net");
    assert_eq!(module.path(), "lib/modules/6.1.0/kernel/virtio-net.ko");
    assert!(module.class().intersects(Class::BUS) && !module.class().intersects(Class::FS));
    assert_eq!(module.compression(), Compression::Xz);
    assert!(module.blacklisted());
    assert_eq!(module.options(), "napi_tx=0 csum=1");
    let ids = |ids: &mut dyn Iterator<Item = _>| -> Vec<usize> {
        ids.map(coldplug::index::ModuleId::index).collect()
    };
    assert_eq!(ids(&mut module.deps()), [2, 1]);
    assert_eq!(ids(&mut module.soft_pre()), [1]);
    assert_eq!(ids(&mut module.soft_post()), [2, 0]);
    assert!(index.by_name("virtio_ne").is_none() && index.by_name("").is_none());
    assert!(index.is_builtin("ext4") && index.is_builtin("crc32c_intel"));
    assert!(!index.is_builtin("virtio"));
    assert_eq!(found(&index, "fs-x"), [0, 2]);
    assert_eq!(found(&index, "fs_x"), [0, 2]);
    let mut asked = vec![];
    index.for_request("zz", &mut |id| asked.push(id.index()));
    index.for_request("fs-x", &mut |id| asked.push(id.index()));
    assert_eq!(asked, [2, 0, 2]);
}

#[test]
fn every_cut_and_every_flipped_byte_is_told() {
    let (pairs, modules) = real_pairs();
    let bytes = indexed(&pairs[..40], modules);
    for cut in 0..bytes.len() {
        let error = Index::parse(&bytes[..cut]).unwrap_err();
        assert!(
            matches!(error, IndexError::TooShort { .. } | IndexError::Length { .. }),
            "{cut}: {error}"
        );
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert!(Index::parse(&bad).is_err(), "byte {at}");
    }
    let long = [&bytes[..], b"x"].concat();
    assert!(matches!(Index::parse(&long), Err(IndexError::Length { .. })));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut bad = entry("a", &[]);
    bad.deps = vec![7];
    let build = |modules| Builder { modules, ..Builder::default() }.build();
    assert!(build(vec![bad]).unwrap_err().to_string().contains("a refers to no module"));
    let twins = vec![entry("a-b", &[]), entry("a_b", &[])];
    assert!(build(twins).unwrap_err().to_string().contains("two modules"));
    assert!(build(vec![entry("a", &["x".repeat(70_000)])]).is_err());
}

/// None of the files is there, so each driver that is started on fails at once.
#[test]
fn drivers_of_ata_wait_until_they_are_released() {
    let mut ahci = entry("ahci", &["pci:ahci".into()]);
    ahci.deps = vec![0];
    let modules = vec![entry("libata", &[]), ahci, entry("nvme", &["pci:nvme".into()])];
    let bytes = Builder { modules, ..Builder::default() }.build().unwrap();
    let loader = |patient| {
        let policy = Policy { classes: Class::OTHER, patient, ..Policy::default() };
        Loader::new(Index::parse(&bytes).unwrap(), policy)
    };
    let mut patient = loader(true);
    patient.device("pci:ahci");
    assert!(patient.take_events().is_empty() && patient.busy());
    patient.device("pci:nvme");
    assert!(matches!(&patient.take_events()[..], [Event::Failed(error)] if error.module == "nvme"));
    patient.release();
    assert!(!patient.take_events().is_empty() && !patient.busy());
    let mut other = loader(false);
    other.device("pci:ahci");
    assert!(!other.take_events().is_empty() && !other.busy());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Short alphabets make patterns share prefixes and overlap.
    #[test]
    fn agrees_with_a_linear_search(
        pairs in proptest::collection::vec((r"[ab:-]{0,6}([*?]|\[ab\]|\[!a\])?[ab*]{0,3}", 0usize..5), 0..30),
        texts in proptest::collection::vec("[ab:-]{0,9}", 1..20),
    ) {
        let bytes = indexed(&pairs, 5);
        let index = Index::parse(&bytes).unwrap();
        for text in texts {
            prop_assert_eq!(found(&index, &text), expected(&pairs, &text), "{}", text);
        }
    }
}
