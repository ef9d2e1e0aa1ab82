//! Whole lines to whole plans; the lines are those of the distributions' documents.

use std::string::String;
use std::vec::Vec;

use super::*;
use crate::parse::GRAMMARS;
use plan::*;
use proptest::prelude::*;

fn read(line: &str) -> BootPlan {
    parse(line, &Context::default())
}

fn nfs(server: &str, path: &str) -> Source {
    Source::Nfs(NfsSource {
        server: Server::Host(server.into()),
        path: Some(path.into()),
        versions: nfsroot::DEFAULT_VERSIONS.to_vec(),
        options: Vec::new(),
        read_write: false,
    })
}

fn fate(plan: &BootPlan, word: &str) -> Fate {
    plan.words.iter().find(|w| w.text == word).unwrap_or_else(|| panic!("no {word}")).fate
}

fn words_about(plan: &BootPlan) -> Vec<&str> {
    plan.warnings.iter().map(|w| w.word.as_str()).collect()
}

#[test]
fn no_table_names_a_word_twice() {
    for grammar in GRAMMARS {
        for table in grammar.tables {
            for (at, spec) in table.iter().enumerate() {
                assert!(
                    !table.iter().skip(at + 1).any(|other| other.name == spec.name),
                    "{} twice in {}",
                    spec.name,
                    grammar.dialect.name()
                );
            }
        }
    }
}

#[test]
fn debian_live_over_pxe() {
    let plan = read(
        "initrd=live/initrd.img boot=live components netboot=nfs nfsroot=192.168.1.10:/srv/debian-live \
         ip=192.168.1.77:192.168.1.10:192.168.1.1:255.255.255.0 BOOTIF=01-52-54-00-12-34-56 quiet splash",
    );
    assert_eq!(plan.dialect, Dialect::LiveBoot);
    assert_eq!(plan.root.sources, [nfs("192.168.1.10", "/srv/debian-live")]);
    let network = plan.network.as_ref().unwrap();
    assert!(network.required);
    assert_eq!(network.links, LinkChoice::Mac(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
    assert!(matches!(&network.addressing, Addressing::Static(a) if a.prefix == 24));
    let Content::Images(rule) = &plan.root.content else { panic!() };
    assert_eq!(rule.dirs, ["live"]);
    assert!(
        matches!(&rule.pick, ImagePick::Suffixes { module_list, per_mac: true, .. } if module_list == &["filesystem.module"])
    );
    assert!(
        matches!(&plan.writable, Writable::Union(u) if u.upper == Upper::Tmpfs { size: String::new() })
    );
    assert_eq!(plan.warnings, []);
    assert!(plan.can_work() && plan.log.quiet);
    assert_eq!(plan.handoff.args, Vec::<String>::new());
    for word in ["components", "splash", "initrd=live/initrd.img"] {
        assert_eq!(fate(&plan, word), Fate::PassedOn, "{word}");
    }
}

#[test]
fn casper_over_nfs_and_by_url() {
    let plan =
        read("boot=casper netboot=nfs nfsroot=10.0.0.5:/srv/ubuntu ip=dhcp --- quiet splash");
    assert_eq!(plan.dialect, Dialect::Casper);
    assert_eq!(plan.root.sources, [nfs("10.0.0.5", "/srv/ubuntu")]);
    assert!(matches!(plan.network.as_ref().unwrap().addressing, Addressing::Dhcp(_)));
    assert_eq!(plan.warnings, []);

    // 18.04's line: no ip= at all.
    let plan = read("boot=casper netboot=nfs nfsroot=10.0.0.5:/srv/ubuntu");
    assert!(plan.network.as_ref().unwrap().required);
    assert!(plan.can_work());

    let plan = read("ip=dhcp url=http://10.0.0.5/ubuntu-22.04.iso boot=casper");
    assert!(matches!(&plan.root.sources[..], [Source::Url(u)] if u.payload == Payload::Medium));
    let plan = read("ip=dhcp boot=casper netboot=url url=http://10.0.0.5/filesystem.squashfs");
    assert!(matches!(&plan.root.sources[..], [Source::Url(u)] if u.payload == Payload::Image));
    assert!(matches!(plan.root.content, Content::Either(_)));
    // A preseed URL is the installer's.
    let plan = read("boot=casper url=http://10.0.0.5/preseed.cfg");
    assert!(matches!(plan.root.sources[..], [Source::Scan(_)]));
}

#[test]
fn casper_layers_and_persistence() {
    let plan = read("boot=casper layerfs-path=minimal.standard.live.squashfs persistent");
    let Content::Images(rule) = &plan.root.content else { panic!() };
    assert_eq!(
        rule.pick,
        ImagePick::Named(
            ["minimal.squashfs", "minimal.standard.squashfs", "minimal.standard.live.squashfs"]
                .map(String::from)
                .to_vec()
        )
    );
    let Writable::Union(union) = &plan.writable else { panic!() };
    assert!(
        matches!(&union.upper, Upper::Persistent(p) if p.labels == ["writable", "casper-rw"] && p.file)
    );
}

#[test]
fn the_kernels_nfs_root() {
    let plan = read("root=/dev/nfs nfsroot=10.0.0.1:/srv/root,vers=3,tcp rw ip=dhcp");
    assert_eq!(plan.dialect, Dialect::Kernel);
    let [Source::Nfs(source)] = &plan.root.sources[..] else { panic!() };
    assert_eq!((source.versions.as_slice(), source.read_write), (&[NfsVersion::V3][..], true));
    assert_eq!(source.options, ["tcp"]);
    assert_eq!(plan.writable, Writable::AsIs { read_write: true });
    assert!(matches!(plan.root.content, Content::Tree { .. }));
    // Everything from DHCP; the kernel's documents promise it without ip=.
    let plan = read("root=/dev/nfs");
    assert!(matches!(&plan.root.sources[..], [Source::Nfs(s)] if s.server == Server::Boot));
    assert!(plan.network.unwrap().required);
    // The overlay that a school wants over one exported tree.
    let plan = read("root=/dev/nfs nfsroot=10.0.0.1:/srv/root ip=dhcp bw.overlay=512M");
    assert!(
        matches!(&plan.writable, Writable::Union(u) if u.upper == Upper::Tmpfs { size: "512M".into() })
    );
    let plan = read("root=UUID=0a1b rootfstype=ext4 rootflags=noatime ro overlayroot=tmpfs");
    assert_eq!(plan.root.sources, [Source::Device(DeviceSelector::Uuid("0a1b".into()))]);
    assert!(matches!(plan.writable, Writable::Union(_)));
    assert!(plan.network.is_none());
}

#[test]
fn lines_that_cannot_work_say_so() {
    for line in [
        "",
        "quiet",
        "root=/dev/nfs nfsroot=/srv ip=10.0.0.2:::255.255.255.0::eth0:off",
        "root=/dev/nfs ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off",
        "boot=casper netboot=url",
        "boot=live fetch=http//x",
        "boot=live iscsi=10.0.0.1;iqn.x",
        "boot=live fetch=https://host.example/live.squashfs",
        "root=nonsense",
    ] {
        assert!(!read(line).can_work(), "{line}");
    }
}

#[test]
fn what_was_likely_meant_is_named() {
    let plan = read("boot=casper netbot=nfs nfsroot=10.0.0.1:/x ip=dhcp");
    assert!(plan.warnings.iter().any(|w| w.word == "netbot=nfs" && w.hint.contains("netboot")));
    assert_eq!(fate(&plan, "netbot=nfs"), Fate::Unknown);
    let plan = read("boot=live persistent live-media=/dev/sdb1");
    assert_eq!(fate(&plan, "persistent"), Fate::Foreign(Dialect::Casper));
    let plan = read("boot=casper netboot=url url=http://h/x.iso nfsroot=10.0.0.1:/x ip=dhcp");
    assert_eq!(fate(&plan, "nfsroot=10.0.0.1:/x"), Fate::Ignored);
    assert!(words_about(&plan).contains(&"nfsroot=10.0.0.1:/x"));
    let plan = read("boot=casper netboot=nfs nfsroot=a:/1 nfsroot=b:/2 ip=dhcp");
    assert_eq!(fate(&plan, "nfsroot=a:/1"), Fate::Overridden);
    let plan = read("boot=casper netboot=nfs nfsroot=${next-server}:/x ip=dhcp");
    assert!(!plan.can_work() && plan.warnings.iter().any(|w| w.message.contains("variable")));
}

#[test]
fn drivers_failure_and_init() {
    let plan = read(
        "root=/dev/sda1 blacklist=nouveau,snd-hda-intel modprobe.blacklist=floppy brd.rd_size=65536 \
         loop.max_part=9 usb-storage.quirks=1:2:u panic=20 single wibble init=/bin/sh -- -x y=z",
    );
    assert_eq!(plan.drivers.blacklist, ["nouveau", "snd_hda_intel", "floppy"]);
    assert!(plan.drivers.options.iter().any(|o| o.module == "brd" && o.option == "rd_size=65536"));
    assert_eq!(plan.failure.then, OnFailure::Reboot(Seconds(20)));
    assert_eq!(plan.handoff.init.as_deref(), Some("/bin/sh"));
    assert_eq!(plan.handoff.args, ["single", "wibble", "-x", "y=z"]);
    assert_eq!(read("root=/dev/sda1 panic=0").failure.then, OnFailure::Halt);
    assert_eq!(read("root=/dev/sda1 panic=-1").failure.then, OnFailure::Reboot(Seconds(0)));
    assert!(matches!(read("root=/dev/sda1 panic=x").failure.then, OnFailure::Menu { .. }));
}

#[test]
fn iso_files_on_disks() {
    let plan = read("boot=live findiso=/isos/debian.iso");
    assert!(
        matches!(&plan.root.sources[..], [Source::File { on, path }] if matches!(**on, Source::Scan(_)) && path == "/isos/debian.iso")
    );
    let plan = read("boot=live fromiso=/dev/sda1/isos/debian.iso");
    assert!(matches!(&plan.root.sources[..], [Source::File { on, path }]
        if **on == Source::Device(DeviceSelector::Path("/dev/sda1".into())) && path == "/isos/debian.iso"));
    let plan = read("boot=live fromiso=/dev/disk/by-label/X/d.iso");
    assert!(matches!(&plan.root.sources[..], [Source::File { on, path }]
        if **on == Source::Device(DeviceSelector::Label("X".into())) && path == "/d.iso"));
    let plan = read("boot=casper iso-scan/filename=/ubuntu.iso");
    assert!(matches!(&plan.root.sources[..], [Source::File { .. }]));
}

/// Lines that are as long as a line can be, of the pieces that nest, repeat or are
/// compared with each other.
#[test]
fn hostile_lines_stay_small_and_quick() {
    let start = std::time::Instant::now();
    let repeated = |head: &str, piece: &str| {
        let mut line = String::from(head);
        while line.len() + piece.len() < token::MAX_LINE {
            line.push_str(piece);
        }
        line
    };
    for (head, piece) in [
        ("root=/dev/sda1 ", "bw.image=a "),
        ("bw.root=/dev/sda1", ",file=a"),
        ("root=/dev/nfs nfsroot=a:/b ltsp.image=a", ",,a"),
        ("root=/dev/nfs nfsroot=a:/b ltsp.image=a", ",partition=1,,a"),
        ("boot=casper layerfs-path=a", ".a"),
        ("boot=live blacklist=", "a,b,c,"),
        ("boot=live ", "netbot nfsrot "),
        ("root=/dev/sda1 ", "abcdefgh.x=1 "),
        ("root=dhcp ", "ip=eth0:dhcp "),
        ("root=dhcp ", "nameserver=10.0.0.1 rd.route=10.0.0.0/8: "),
        ("automatic=", "method:nfs,"),
        ("boot=live ip=", "eth0:10.0.0.1,"),
        ("archisobasedir=", "a/"),
        ("boot=live ", "x=${y} "),
        ("", "\"a=b c\" "),
        ("root=iscsi:", ":"),
    ] {
        fuzz(repeated(head, piece).as_bytes());
    }
    // Unoptimised, on a busy machine; what is guarded against takes minutes.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

fn built_for(defaults: &str, line: &str) -> BootPlan {
    parse(line, &Context { defaults: &[defaults], ..Context::default() })
}

/// The line's weakest mark beat `BOOT=casper` of the initrd in front: its medium over NFS
/// was taken for the root itself.
#[test]
fn what_an_image_was_built_for_beats_the_weakest_marks_of_a_line() {
    for line in [
        "netboot=nfs nfsroot=192.0.2.1:/u ip=dhcp",
        "nfsroot=192.0.2.1:/u ip=dhcp --- quiet splash",
        "live-media-path=casper persistent ignore_uuid ---",
        "--- quiet splash",
        "root=UUID=ab quiet",
    ] {
        let plan = built_for("boot=casper", line);
        assert_eq!(plan.dialect, Dialect::Casper, "{line}");
        assert!(matches!(plan.root.content, Content::Images(_)), "{line}");
        assert!(plan.can_work(), "{line}");
    }
    // What only another dialect has still decides.
    for (line, dialect) in [
        ("boot=live", Dialect::LiveBoot),
        ("boot=local root=/dev/sda1", Dialect::Kernel),
        ("findiso=/d.iso", Dialect::LiveBoot),
        ("root=live:CDLABEL=X", Dialect::Dracut),
        ("bw.dialect=kernel nfsroot=192.0.2.1:/u", Dialect::Kernel),
    ] {
        assert_eq!(built_for("boot=casper", line).dialect, dialect, "{line}");
    }
    let plan = built_for("rd.luks=0", "root=/dev/nfs nfsroot=192.0.2.1:/u ip=dhcp");
    assert_eq!(plan.root.sources, [nfs("192.0.2.1", "/u")]);
}

/// `http://${pxeserver}/` lost its slashes with the server and was refused.
#[test]
fn the_boot_server_stands_in_urls_too() {
    let plan = read("archisobasedir=arch archiso_http_srv=http://${pxeserver}/ ip=dhcp");
    assert!(plan.can_work());
    assert!(matches!(&plan.root.sources[0], Source::Url(u)
        if u.url.reveal() == "http:///arch/x86_64/airootfs.sfs"));
}

/// The first `ip=` won although it said off, and of two networks the first, although the
/// server was in the second.
#[test]
fn the_setting_that_reaches_the_server_is_the_one_that_boots() {
    for line in [
        "root=dhcp ip=eth1:off ip=eth0:dhcp",
        "root=nfs:192.0.2.1:/x ip=::::h:eth1:none ip=192.0.2.7::192.0.2.254:24::eth0:none",
        "root=nfs:192.0.2.1:/x ip=10.1.1.2:::24::eth1:none ip=192.0.2.7:::24::eth0:none",
    ] {
        let plan = read(line);
        assert_eq!(plan.network.unwrap().links, LinkChoice::Named(vec!["eth0".into()]), "{line}");
    }
    let first =
        read("root=nfs:192.0.2.1:/x ip=10.1.1.2:::24::eth1:none ip=10.2.1.2:::24::eth0:none");
    assert_eq!(first.network.unwrap().links, LinkChoice::Named(vec!["eth1".into()]));
}

/// They were taken by `explain`, and failed at boot without the word IPv6.
#[test]
fn ipv6_servers_are_refused_by_name_before_the_boot() {
    for line in [
        "boot=live fetch=http://[2001:db8::1]/f.squashfs",
        "boot=live fetch=http://[2001:db8::1]:8080/f.squashfs",
        "root=/dev/nfs nfsroot=[2001:db8::1]:/x",
        "root=/dev/nfs nfsroot=2001:db8::1:/x",
        "root=live:nfs:[2001:db8::1]:/x/live.img",
        "root=nbd:[2001:db8::1]:live",
        "bw.root=nvme:[2001:db8::1]/nqn.x",
        "root=nfs:192.0.2.1:/x ip=[2001:db8::7]::[2001:db8::1]:64:h:eth0:none",
    ] {
        let plan = read(line);
        let fatal = plan.warnings.iter().find(|w| w.fatal);
        assert!(fatal.is_some_and(|w| w.message.contains("IPv6")), "{line}: {:?}", plan.warnings);
    }
    // Nothing needs the network here.
    assert!(read("root=UUID=x ip=[2001:db8::7]::[2001:db8::1]:64:h:eth0:none").can_work());
}

/// `rename()` of a directory of the image failed with EXDEV, as it does not in live-boot.
#[test]
fn live_boots_overlay_can_rename_directories_of_the_image() {
    let options = |line| match read(line).writable {
        Writable::Union(union) | Writable::Directories { union, .. } => union.options,
        other => panic!("{other:?}"),
    };
    assert_eq!(options("boot=live"), ["redirect_dir=on"]);
    assert_eq!(options("boot=live persistence"), ["redirect_dir=on"]);
    assert_eq!(options("boot=live union=aufs"), Vec::<String>::new());
    assert_eq!(options("boot=casper"), Vec::<String>::new());
}

/// They were taken, and the boot ended minutes later; others were refused with a hint at NFS.
#[test]
fn families_that_are_not_read_are_named_with_what_to_do() {
    for (line, family) in [
        ("root=/dev/ram0 loop=/image.squashfs looptype=squashfs", "genkernel"),
        ("root=LABEL=nixos-x init=/nix/store/x/init", "NixOS"),
        ("img_dev=/dev/sda1 img_loop=/x.iso misolabel=M", "Manjaro"),
        ("automatic=method:cdrom stagename=live", "ALT"),
        ("from=usb splasht", "antiX"),
        ("inst.stage2=hd:LABEL=x", "Fedora"),
        ("boot=UUID=ab disk=UUID=cd", "LibreELEC"),
    ] {
        let plan = read(line);
        let first = plan.warnings.first().filter(|w| w.fatal && !w.hint.is_empty());
        assert!(first.is_some_and(|w| w.message.contains(family)), "{line}: {:?}", plan.warnings);
    }
    // A line that says where the root is, or in which words, is believed.
    for line in [
        "root=/dev/ram0 looptype=squashfs bw.root=any bw.image=image.squashfs",
        "boot=live splasht",
        "bw.dialect=slax changes=/x",
        "root=live:http://192.0.2.1/x inst.repo=http://192.0.2.1/",
    ] {
        assert!(read(line).can_work(), "{line}");
    }
}

/// Slax's own menus say it all in one word, which did nothing.
#[test]
fn slax_flags_are_the_words_that_they_hold() {
    let plan = read("slax.flags=perch,toram");
    assert_eq!((plan.dialect, &plan.root.to_ram), (Dialect::Slax, &ToRam::Medium));
    assert!(
        matches!(&plan.writable, Writable::Union(u) if matches!(u.upper, Upper::Persistent(_)))
    );
    let plan = read("from=slax slax.flags=automount");
    assert!(matches!(&plan.writable, Writable::Union(u) if matches!(u.upper, Upper::Tmpfs { .. })));
    assert_eq!(plan.root.to_ram, ToRam::No);
}

/// `ip=…:BOOTIF` waited for a link of that name, `root=squash:` was no root, and
/// `nbdroot=` left the machine waiting for /dev/nbd0.
#[test]
fn roots_of_maas_and_nbd_client() {
    let plan = read("root=squash:http://192.0.2.1/s ip=::::h:BOOTIF BOOTIF=01-52-54-00-12-34-56");
    assert_eq!(
        plan.network.unwrap().links,
        LinkChoice::Mac(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]))
    );
    for (line, server, export) in [
        ("root=/dev/nbd0 nbdroot=192.0.2.1,live,nbd0", "192.0.2.1", "live"),
        ("root=/dev/nbd0 nbdroot=nas:/opt/ltsp", "nas", "/opt/ltsp"),
        ("root=/dev/nbd0 nbdroot=nas/image", "nas", "image"),
    ] {
        let plan = read(line);
        assert!(
            matches!(&plan.root.sources[..], [Source::Nbd(n)]
            if n.server == Server::Host(server.into()) && n.export == export),
            "{line}"
        );
        assert!(plan.can_work() && plan.network.is_some());
    }
}

/// No dialect read them: changes were not kept, and a medium in the network was looked for on
/// drives, both without a word.
#[test]
fn words_behind_two_dashes_count_where_scripts_read_the_whole_line() {
    let plan = read("boot=live -- persistence toram");
    assert!(
        matches!(&plan.writable, Writable::Union(u) if matches!(u.upper, Upper::Persistent(_)))
    );
    assert_eq!((plan.root.to_ram, plan.handoff.args), (ToRam::Medium, Vec::<String>::new()));
    let plan = read("-- boot=casper netboot=nfs nfsroot=192.0.2.1:/u ip=dhcp");
    assert_eq!(plan.root.sources, [nfs("192.0.2.1", "/u")]);
    let plan = read("root=/dev/sda1 init=/bin/x -- rw quiet nfsroot");
    assert_eq!(plan.handoff.args, ["rw", "quiet"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..400)) { fuzz(&data); }

    /// Known words with values of every kind, in every dialect.
    #[test]
    fn known_words_with_any_values(
        which in 0..GRAMMARS.len(),
        picks in proptest::collection::vec((any::<u16>(), prop_oneof![
            Just(None),
            "[0-9a-z:/.,=\\[\\]%${}-]{0,24}".prop_map(Some),
            Just(Some("http://10.0.0.1/x.iso".to_string())),
            Just(Some("10.0.0.1:/srv/x,vers=4".to_string())),
            Just(Some("4294967296".to_string())),
            Just(Some("LABEL=x,path=/y".to_string())),
        ]), 0..12),
    ) {
        let grammar = GRAMMARS[which];
        let specs: Vec<_> = grammar.tables.iter().flat_map(|t| t.iter()).collect();
        let mut line = format!("bw.dialect={}", grammar.dialect.name());
        for (pick, value) in picks {
            let name = specs[usize::from(pick) % specs.len()].name.replace('*', "x");
            if name == "bw.dialect" { continue }
            line.push(' ');
            line.push_str(&name);
            if let Some(value) = value { line.push('='); line.push_str(&value); }
        }
        let plan = read(&line);
        prop_assert_eq!(plan.dialect, grammar.dialect);
        prop_assert!(!plan.words.iter().any(|w| w.fate == Fate::Unknown), "{}", line);
        if plan.can_work() && plan.root.sources.iter().any(is_network) {
            prop_assert!(plan.network.as_ref().is_some_and(|n| n.required));
        }
        fuzz(line.as_bytes());
    }
}
