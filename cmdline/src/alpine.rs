//! Alpine's mkinitfs: an installed root, or one under an overlay in memory.
//!
//! Read from mkinitfs of 2025-11-28. Alpine's diskless mode puts its root together
//! from packages with `apk`, before there is a root; that is no image to boot, and
//! the line that asks for it is refused with that reason.

use alloc::string::{String, ToString};

use crate::ip::Form;
use crate::plan::{BootPlan, Dialect, Source, UnionKind, UnionPlan, Upper, Writable};
use crate::table::{Draft, Grammar, words};
use crate::{base, kernel, net, own, source, value};

words! { ALPINE, ALPINE_DOCS:
    "root" Text Soft "The root device; absent means diskless.";
    "overlaytmpfs" Switch Keep "The root stays read-only under an overlay in memory.";
    "overlaytmpfsflags" Text Keep "Mount options of that memory.";
    "init_args" Text Keep "Arguments for init.";
    "modules" Text Keep "Modules loaded first.";
    "nbd" Text Local "SERVER[:PORT] of the root.";
    "aoe" Text Local "AoE is not spoken.";
    "aoe_iflist" Text Idle "AoE is not spoken.";
    "aoe_mtu" Text Idle "AoE is not spoken.";
    "alpine_repo" Text Idle "Where packages are; diskless mode.";
    "alpine_dev" Text Idle "Where packages are; diskless mode.";
    "apkovl" Text Idle "The machine's settings; diskless mode.";
    "modloop" Text Idle "Image with the modules; diskless mode.";
    "pkgs" Text Idle "Further packages; diskless mode.";
    "keep_apk_new" Flag Pass "For apk.";
    "usrflags" Text Idle "A separate /usr is left to the live system.";
    "debug_init" Flag Soft "Everything on the console.";
}

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Alpine,
    tables: &[&own::OWN, &own::P2V, &ALPINE, &net::NET, &base::BASE],
    pass: "ssh_key chart splash dasd zfcp s390x_net tinycloud ds wireguard autodetect_serial autoraid zfcp cryptroot cryptdm \
        cryptheader cryptoffset cryptdiscards cryptkey BOOT_IMAGE usbdelay rootfstype",
    first_wins: false,
    splits_quotes: true,
    build,
};

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    plan.log.debug |= d.has("debug_init");
    for module in d.list("modules") {
        plan.drivers.force.push(module.replace('-', "_"));
    }
    if let Some(arguments) = d.get("init_args") {
        for argument in arguments.split_ascii_whitespace() {
            plan.handoff.args.push(argument.to_string());
        }
    }
    let root = d.get("root").unwrap_or_default();
    if let Some(server) = d.get("nbd") {
        match source::nbd(server, "") {
            Ok(nbd) => plan.root.sources.push(Source::Nbd(nbd)),
            Err(why) => d.fatal_word("nbd", server, &(why, "nbd=10.0.0.1:10809")),
        }
    } else if let Some(target) = d.get("aoe") {
        d.fatal_word("aoe", target, &("AoE is not spoken", "nbd=SERVER"));
    } else if !root.is_empty() {
        kernel::device_root(d, plan, root);
    } else if !own::names_root(d) {
        d.fatal("", &("this is Alpine's diskless mode, which builds its root from packages; Bellwether boots images and trees", "root=… of an installed Alpine, or bw.root=… with an image of it"));
    }
    if d.switch("overlaytmpfs") == Some(true) {
        let flags = d.get("overlaytmpfsflags").unwrap_or_default();
        let size = flags.split(',').find_map(|o| o.strip_prefix("size=")).unwrap_or_default();
        let size = if value::is_tmpfs_size(size) { size } else { "" };
        plan.writable = Writable::Union(UnionPlan {
            kind: UnionKind::Overlay,
            upper: Upper::Tmpfs { size: String::from(size) },
            options: alloc::vec::Vec::new(),
        });
    }
    let ip = net::read_ip(d, Form::Kernel);
    if ip.is_some() || source::needs_network(plan) {
        plan.network = Some(net::plan(d, ip, net::Extra::default()));
    }
}
