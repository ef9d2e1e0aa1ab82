//! Knoppix, from its documents (the scripts themselves were not at hand): the cloop
//! image on a medium, over NFS, or in an ISO file on a disk.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use crate::ip::Form;
use crate::plan::{
    BootPlan, Content, Dialect, ImagePick, PersistPlan, Source, ToRam, UnionKind, UnionPlan, Upper,
    Writable,
};
use crate::table::{Draft, Grammar, text, words};
use crate::{base, casper, net, nfsroot, own, source, value};

words! { KNOPPIX, KNOPPIX_DOCS:
    "knoppix_dir" Text Keep "Directory on the medium; KNOPPIX.";
    "knoppix_name" Text Keep "File name of the image; KNOPPIX.";
    "fromhd" OptText Keep "Only disks, or only this device.";
    "bootfrom" Text Local "DEVICE, or DEVICE/PATH of an ISO file.";
    "nfsdir" Text Keep "SERVER:PATH of the medium.";
    "toram" Flag Local "Copy the medium to memory.";
    "tohd" Text Idle "Copying the medium to a disk is not done.";
    "noimage" Flag Keep "Keep no changes.";
}

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Knoppix,
    tables: &[&own::OWN, &own::P2V, &KNOPPIX, &net::NET, &base::BASE],
    pass: "home myconfig secure lang nodhcp desktop screen depth xmodule xserver xvrefresh xhrefresh wheelmouse \
        nowheelmouse noswap noeject noprompt testcd splash dma no* blind brltty sound tz utc gmt \
        keyboard xkeyboard vm debug expert mem",
    first_wins: false,
    splits_quotes: true,
    build,
};

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.root.retry = base::rounds(60, 1);
    let dir = d.get("knoppix_dir").and_then(value::inside).filter(|p| !p.is_empty());
    let dir = dir.unwrap_or_else(|| "KNOPPIX".to_string());
    let name = d.get("knoppix_name").unwrap_or("KNOPPIX").to_string();
    let pick = ImagePick::FirstOf(alloc::vec![name]);
    plan.root.content = Content::Images(source::rule(&[&dir], pick, &[]));
    if let Some(place) = d.get("nfsdir") {
        match nfsroot::parse(place) {
            Ok(nfs) => plan.root.sources.push(Source::Nfs(nfs)),
            Err(why) => d.fatal_word("nfsdir", place, &(why, "nfsdir=10.0.0.1:/knoppix")),
        }
    } else if let Some((name, place)) = d.get_any(&["bootfrom", "fromhd"]) {
        let found = if place.is_empty() {
            Some(Source::Scan(source::scan(false, true)))
        } else if value::suffix(place).as_deref() == Some("iso") {
            casper::device_file(place).or_else(|| {
                let path = value::absolute(place);
                Some(Source::File { on: Box::new(Source::Scan(source::scan(true, true))), path })
            })
        } else {
            value::device(place).map(Source::Device)
        };
        match found {
            Some(source) => plan.root.sources.push(source),
            None => {
                d.fatal_word(name, place, &("names no device", "bootfrom=/dev/sda1/knoppix.iso"))
            }
        }
    } else {
        let mut rule = source::scan(true, true);
        rule.removable_first = true;
        plan.root.sources.push(Source::Scan(rule));
    }
    if d.has("toram") {
        plan.root.to_ram = ToRam::Medium;
    }
    let upper = if d.has("noimage") {
        Upper::Tmpfs { size: String::new() }
    } else {
        // Found on the medium, it is used without being asked for.
        Upper::Persistent({
            let mut persist = PersistPlan::new();
            persist.labels = alloc::vec!["KNOPPIX-DATA".to_string()];
            persist.path = Some(text(&["/", &dir, "/knoppix-data.img"]));
            persist.filesystem = true;
            persist.file = true;
            persist.silent = true;
            persist
        })
    };
    plan.writable = Writable::Union(UnionPlan {
        kind: UnionKind::Overlay,
        upper,
        options: alloc::vec::Vec::new(),
    });
    let ip = net::read_ip(d, Form::Kernel);
    if ip.is_some() || source::needs_network(plan) {
        plan.network = Some(net::plan(d, ip, net::Extra::default()));
    }
}
