//! LTSP's image chains: `root=/dev/nfs nfsroot=… ltsp.image=A[,OPTIONS][,,B…]`.
//!
//! Read from LTSP of 2025-09-29. Each link is a file (or device) inside the one
//! before; an ISO at the end is descended into by itself. `IMAGE_TO_RAM` and the
//! other settings of `ltsp.conf` are the live system's.

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use crate::ip::Form;
use crate::plan::{BootPlan, Content, Dialect, ImagePick, Source, ToRam, Writable};
use crate::table::{Draft, Grammar, words};
use crate::{base, kernel, net, own, source, value};

words! { LTSP, LTSP_DOCS:
    "nfsroot" OptText Keep "[SERVER:]DIRECTORY[,OPTIONS] that holds the images.";
    "nfsopts" Text Local "Further NFS options.";
    "ltsp.image" Text Keep "Image, its options (partition=, subdir=, fstype=, mount options), and the next one after two commas.";
    "ltsp.toram" Flag Local "Copy the image to memory.";
}

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Ltsp,
    tables: &[&own::OWN, &own::P2V, &LTSP, &net::NET, &base::BASE],
    pass: "ltsp.* loop.max_part menu srv_name",
    first_wins: false,
    splits_quotes: true,
    build,
};

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    let root = d.get("root").unwrap_or_default();
    plan.root.retry = kernel::NFS_RETRY;
    let mut current = if root == "/dev/nfs" || root.is_empty() {
        kernel::nfs(d).map(|mut nfs| {
            nfs.read_write = false;
            Source::Nfs(nfs)
        })
    } else {
        let device = value::device(root);
        if device.is_none() {
            d.fatal_word("root", root, &("is neither /dev/nfs nor a device", "root=/dev/nfs"));
        }
        device.map(Source::Device)
    };
    if let Some(options) = d.get("nfsopts")
        && let Some(Source::Nfs(nfs)) = &mut current
    {
        crate::nfsroot::apply_options(nfs, options);
    }
    let (mut subdir, mut fstype, mut flags) = (String::new(), String::new(), String::new());
    let chain = d.get("ltsp.image").unwrap_or_default();
    for link in chain.split(",,").filter(|link| !link.is_empty()) {
        let mut items = link.split(',');
        let path = items.next().unwrap_or_default();
        (subdir, fstype, flags) = (String::new(), String::new(), String::new());
        let mut partition = None;
        for option in items.filter(|o| !o.is_empty()) {
            match option.split_once('=') {
                Some(("partition", number)) => partition = value::number(number).filter(|n| *n > 0),
                Some(("subdir", dir)) => subdir = value::inside(dir).unwrap_or_default(),
                Some(("fstype", kind)) => fstype = kind.to_string(),
                _ => {
                    if !flags.is_empty() {
                        flags.push(',');
                    }
                    flags.push_str(option);
                }
            }
        }
        let Some(on) = current.take() else { break };
        match source::file_on(on, path) {
            Ok(file) => {
                current = Some(match partition {
                    Some(number) => Source::Partition { on: Box::new(file), number },
                    None => file,
                });
            }
            Err(why) => d.fatal_word("ltsp.image", path, &(why, "ltsp.image=images/x86_64.img")),
        }
    }
    plan.root.sources.extend(current);
    plan.root.content =
        if subdir.is_empty() && fstype.is_empty() && flags.is_empty() && !chain.is_empty() {
            let pick = ImagePick::FirstOf(alloc::vec!["filesystem.squashfs".to_string()]);
            Content::Either(source::rule(&["casper", "live"], pick, &[]))
        } else {
            Content::Tree { subdir, fstype, flags }
        };
    if d.has("ltsp.toram") {
        plan.root.to_ram = ToRam::Image(None);
    }
    plan.writable = Writable::Union(own::overlay(""));
    let ip = net::read_ip(d, Form::Kernel);
    if ip.is_some() || source::needs_network(plan) {
        plan.network = Some(net::plan(d, ip, net::Extra::default()));
    }
}
