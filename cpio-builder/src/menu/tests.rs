use super::model::LINE_MAX;
use super::*;
use proptest::prelude::*;

fn none(_: &str) -> Option<String> {
    None
}

const ISOLINUX: &str = "\
UI vesamenu.c32
include stdmenu.cfg
menu title ^Welcome
default live
timeout 50
append quiet
label live
  menu label ^Live system
  menu default
  linux /live/vmlinuz
  initrd /live/initrd.img
  append boot=live components
  text help
  label not-one
  endtext
label plain
  kernel /live/vmlinuz
label none
  kernel /live/vmlinuz
  append -
label old
  KERNEL /casper/vmlinuz
  APPEND  file=/cdrom/preseed.seed boot=casper initrd=/casper/a.gz,/casper/b.gz quiet --
label memtest
  kernel /install/mt86plus.bin
label hd
  localboot 0x80
";

/// Proxmox: the entry that installs without a question became the default of a medium that has
/// none, since its file is not there.
#[test]
fn a_branch_for_a_file_that_is_not_there_does_not_count() {
    let text = "if [ -f auto.toml ]; then\n set timeout=10\n menuentry 'Automated' {\n  linux /v \
                a\n }\n for x in 1 2; do\n menuentry \"$x\" {\n linux /v $x\n }\n done\nfi\n\
                menuentry 'Graphical' {\n if [ ! -e /deep ] ; then\n linux /v b\n else\n linux /v \
                deep\n fi\n}\n";
    let read = |there: &str, text: &str| {
        let menu = Menu::read(Dialect::Grub, text, &mut |name| {
            there.split(' ').any(|file| file == name).then(String::new)
        });
        let titles: Vec<String> =
            menu.entries.iter().map(|e| format!("{}:{}", e.title, e.append)).collect();
        (titles.join(" "), menu.timeout)
    };
    assert_eq!(read("", text), ("Graphical:b".into(), None));
    assert_eq!(
        read("auto.toml /deep", text),
        ("Automated:a 1:1 2:2 Graphical:deep".into(), Some(10))
    );
    // What only the loader knows leaves both.
    let entry = |title: &str| format!("menuentry {title} {{\n linux /v x\n}}\n");
    let both = |condition: &str| {
        format!("if {condition}; then\n{}else\n{}fi\n{}", entry("A"), entry("B"), entry("C"))
    };
    for (condition, titles) in [
        ("[ -f /x ]", "B:x C:x"),
        ("! test -f /x", "A:x C:x"),
        ("[ -f /there ]", "A:x C:x"),
        ("[ -f ($root)/there ]", "A:x B:x C:x"),
        ("[ -f ${iso}/x ]", "A:x B:x C:x"),
        ("[ -f /x -a -f /there ]", "A:x B:x C:x"),
        ("[ \"${grub_platform}\" = \"efi\" ]", "A:x B:x C:x"),
        ("search --file /x", "A:x B:x C:x"),
    ] {
        assert_eq!(read("/there", &both(condition)).0, titles, "{condition}");
    }
    let text = "if [ -f /a ]; then\nelif [ -f /b ]; then\nmenuentry B {\nlinux /v\n}\nelif [ -f /c \
                ]; then\nmenuentry C {\nlinux /v\n}\nelse\nmenuentry D {\nlinux /v\n}\nfi\n";
    for (there, title) in [("/b", "B:"), ("/c", "C:"), ("/d", "D:"), ("/a", "")] {
        assert_eq!(read(there, text).0, title);
    }
    // People see all that the file has.
    let menu = Menu::read_as_written(Dialect::Grub, &both("[ -f /x ]"), &mut none);
    assert_eq!(menu.entries.len(), 3);
}

#[test]
fn isolinux_entries() {
    let mut asked = Vec::new();
    let menu = Menu::read(Dialect::Syslinux, ISOLINUX, &mut |name| {
        asked.push(name.to_owned());
        Some("menu background splash.png\nlabel extra\nlinux /x\n".into())
    });
    assert_eq!(asked, ["stdmenu.cfg"]);
    assert_eq!(menu.timeout, Some(5));
    assert_eq!(menu.title, "");
    let ids: Vec<&str> = menu.entries.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids, ["extra", "live", "plain", "none", "old"]);
    let live = &menu.entries[menu.default];
    assert_eq!((live.id.as_str(), live.title.as_str()), ("live", "Live system"));
    assert_eq!(live.append, "boot=live components");
    assert_eq!(menu.entries[2].append, "");
    assert_eq!(menu.entries[3].append, "");
    let old = &menu.entries[4];
    assert_eq!(old.initrd, ["/casper/a.gz", "/casper/b.gz"]);
    assert_eq!(old.append, "file=/cdrom/preseed.seed boot=casper quiet --");
}

/// A brace stuck to a title was part of it, and the entry's end was lost with one behind the
/// last word.
#[test]
fn braces_of_grub_need_no_blanks() {
    let text = "function f{\n set a=1; if true; then\n menuentry 'in f'{linux /f}\n fi\n}\n\
                    menuentry \"A\"{\n linux /a x=${y}z {\n}\n}\n\
                    menuentry 'B {b}' --class c{\n linux /b w}\nf\nsubmenu S{menuentry C{linux /c}}\n";
    let menu = Menu::read(Dialect::Grub, text, &mut none);
    let got: Vec<_> = menu.entries.iter().map(|e| (&*e.title, &*e.kernel, &*e.append)).collect();
    let want = [("A", "/a", "x=z"), ("B {b}", "/b", "w"), ("in f", "/f", ""), ("C", "/c", "")];
    assert_eq!(got, want);
}

/// `explain --from` said of memory testers that they would fail at boot.
#[test]
fn programs_that_are_loaded_as_kernels_are_none() {
    let text = "menuentry a { linux16 /boot/memtest86+x64.bin }\n\
                    menuentry b { linux16 /memdisk iso\n initrd16 /x.iso }\n\
                    menuentry c { linux /netboot.xyz.lkrn }\n\
                    menuentry d { linux /live/vmlinuz boot=live }\n";
    let menu = Menu::read(Dialect::Grub, text, &mut none);
    assert_eq!(menu.entries.iter().map(|e| &*e.title).collect::<Vec<_>>(), ["d"]);
    assert!(menu.other_default, "the first starts none");
    let text = "label m\nlinux /memdisk\ninitrd /dos.img\nlabel d\nlinux /memory/vmlinuz\n";
    let menu = Menu::read(Dialect::Syslinux, text, &mut none);
    assert_eq!(menu.entries.iter().map(|e| &*e.id).collect::<Vec<_>>(), ["d"]);
}

#[test]
fn a_kernel_with_the_name_of_another_program_stays_a_kernel() {
    let entry = Entry { id: "a".into(), kernel: "linux.img".into(), ..Entry::default() };
    let menu = Menu { entries: vec![entry], ..Menu::default() };
    let written = menu.to_syslinux(false).unwrap();
    let read = Menu::read(Dialect::Syslinux, &written, &mut |_| None);
    assert_eq!(read.entries, menu.entries);
}

#[test]
fn a_global_append_is_for_labels_without_one() {
    let text = "append quiet splash\nlabel a\nkernel k\nlabel b\nkernel k\nappend -\n";
    let menu = Menu::read(Dialect::Syslinux, text, &mut none);
    assert_eq!(menu.entries[0].append, "quiet splash");
    assert_eq!(menu.entries[1].append, "");
}

const GRUB: &str = r#"
if loadfont $prefix/font.pf2 ; then
  set gfxmode=800x600
fi
set default="3"
set timeout=30
set extra="a=1 b=2"
source /boot/grub/config.cfg
menuentry "Live system (amd64)" --hotkey=l --id live {
	linux	/live/vmlinuz-6.1 boot=live $extra "${extra}" file=\$x 'c=$d' $nothing findiso=${iso_path} # comment
	initrd	/live/initrd.img /more.img
}
submenu 'Advanced ...' {
  menuentry 'It'\''s safe' { linuxefi /casper/vmlinuz boot=casper \
     nomodeset ---; initrdefi /casper/initrd }
  menuentry 'Firmware' { fwsetup }
}
menuentry memtest { linux16 }
menuentry last { set gfxpayload=keep
  linux /v root=LABEL="a b"
}
"#;

fn lines(menu: &Menu) -> Vec<(&str, &str)> {
    menu.entries.iter().map(|e| (e.title.as_str(), e.append.as_str())).collect()
}

/// They were emptied: `findiso=` was left out, and the plan said "any drive".
#[test]
fn what_no_line_of_the_menu_sets_stays_a_variable() {
    let text = r#"
set opts="quiet splash"
probe -u $root --set=u
menuentry "a" { linux /live/vmlinuz boot=live findiso=${iso_path} $opts $more }
menuentry "b" { linux ($root)/v img_dev=/dev/disk/by-uuid/$u img_loop="$iso_path" }
"#;
    let menu = Menu::read_as_written(Dialect::Grub, text, &mut none);
    assert_eq!(
        lines(&menu),
        [
            ("a", "boot=live findiso=${iso_path} quiet splash ${more}"),
            ("b", "img_dev=/dev/disk/by-uuid/${u} img_loop=${iso_path}"),
        ]
    );
    let plain = Menu::read(Dialect::Grub, text, &mut none);
    assert_eq!(plain.entries[0].append, "boot=live findiso= quiet splash");
}

/// Entries in loops, by functions and by `$linux` were shown with emptied variables, or
/// were not there at all.
#[test]
fn loops_functions_and_assignments_of_grub() {
    let text = r#"
function live {
  # A brace } in a comment, and one in "quotes }".
  linux /live/$1 boot=live ${2} for
  initrd /live/${1}.img
}
if [ "$grub_platform" = efi ]; then k=/efi/v; else k=/bios/v; fi
for flavour in xfce "kde plasma"; do
  menuentry "Live $flavour" { live $flavour toram }
done
for iso in /isos/*.iso; do
  menuentry "$iso" "$iso" --class x { loopback loop $2; linux (loop)/v findiso=$2 ; }; done
menuentry one { linux $k a }
menuentry var { $linuxcmd /v b; $initrdcmd /i }
menuentry args "/x.iso" --class y { set f="$2"; linux /v iso=$f }
"#;
    let menu = Menu::read_as_written(Dialect::Grub, text, &mut none);
    assert_eq!(
        lines(&menu),
        [
            ("Live xfce", "boot=live toram for"),
            ("Live kde plasma", "boot=live plasma for"),
            ("${iso}", "findiso=${iso}"),
            ("one", "a"),
            ("var", "b"),
            ("args", "iso=/x.iso"),
        ]
    );
    assert_eq!(menu.entries[3].kernel, "/bios/v");
    assert_eq!(menu.entries[4].initrd, ["/i"]);
    // Loops in loops, and functions that call themselves, come to an end.
    let mut text = String::from("function f { f; f; f; }\nf\n");
    text.push_str(&"for a in 1 2 3 4 5 6 7 8 9; do\n".repeat(7));
    text.push_str("menuentry x { linux /v }\n");
    text.push_str(&"done\n".repeat(7));
    let menu = Menu::read(Dialect::Grub, &text, &mut none);
    assert_eq!(menu.entries.len(), ENTRIES_MAX);
    assert!(menu.notes[0].contains("loops without an end"), "{:?}", menu.notes);
}

/// Of a menu with too many entries nothing was read; its default may be among those left out.
#[test]
fn entries_beyond_the_bound_are_left_out() {
    let of = |entry: &str, more: &str, default: &str| {
        let dialect = Menu::guess(entry).unwrap();
        let entries: String = (0..1100).map(|n| entry.replace('#', &n.to_string())).collect();
        let menu = Menu::read(dialect, &format!("{more}{entries}"), &mut none);
        assert_eq!(menu.entries.len(), ENTRIES_MAX);
        assert!(menu.notes[0].contains("those that follow are left out"), "{:?}", menu.notes);
        let last = menu.notes.last().unwrap();
        assert_eq!(last.contains("which was not read"), menu.other_default, "{last}");
        assert_eq!(menu.other_default, default.is_empty());
        if let Ok(default) = default.parse::<usize>() {
            assert_eq!(menu.default, default);
        }
    };
    for (default, is) in [("7", "7"), ("1099", "")] {
        of("label #\nkernel v\nappend x\n", &format!("default {default}\n"), is);
        of("menuentry '#' {\nlinux v x\n}\n", &format!("set default={default}\n"), is);
        of("title #\nkernel v x\n", &format!("default={default}\n"), is);
    }
    let script: String = (0..1100).map(|n| format!(":{n}\nkernel v x\nboot\n")).collect();
    let menu = super::ipxe::read(&script, &mut none);
    assert_eq!((menu.entries.len(), menu.notes.len()), (ENTRIES_MAX, 1));
}

/// SystemRescue's own menu has its entries in an `eval`, menus of sticks theirs in functions that
/// they call by a name made of variables.
#[test]
fn entries_in_eval_and_in_functions() {
    let text = "set p='archisolabel=A'\neval \"\n\nmenuentry 'One $p' {\n\techo 'Loading...'\n\t\
                linux /v archisobasedir=s $p \\${q}\n\tinitrd /a /b\n}\nmenuentry 'Two' {\n\
                linux /w x\n}\n\"\n";
    let menu = Menu::read(Dialect::Grub, text, &mut none);
    let got: Vec<_> = menu.entries.iter().map(|e| (&*e.title, &*e.append)).collect();
    assert_eq!(got, [("One archisolabel=A", "archisobasedir=s archisolabel=A"), ("Two", "x")]);
    assert_eq!(menu.entries[0].initrd, ["/a", "/b"]);
    let text = "function _a { menuentry \"A $1\" $2 { set i=$2; linux /v findiso=$i } }\n\
                function b { true; }\n${f} x /y.iso\n";
    let menu = Menu::read_as_written(Dialect::Grub, text, &mut none);
    let entry = &menu.entries[0];
    assert_eq!((&*entry.title, &*entry.append), ("A ${1}", "findiso=${2}"));
    assert!(menu.notes[0].contains("functions"), "{:?}", menu.notes);
    assert!(Menu::read(Dialect::Grub, text, &mut none).entries.is_empty());
}

/// `menu.lst` was neither a menu nor anything else.
#[test]
fn menus_of_grub_0_97_and_grub4dos() {
    let text = "# grub.conf\ndefault=1\ntimeout 10\nsplashimage=(hd0,0)/grub/splash.xpm.gz\n\
                hiddenmenu\ntitle CentOS (2.6.32)\n\troot (hd0,0)\n\tkernel --no-mem-option \
                /vmlinuz-2.6.32 ro root=UUID=ab-cd quiet\n\tinitrd /initramfs-2.6.32.img\n\
                title Windows\\nFrom the second disk\nrootnoverify (hd1,0)\nchainloader +1\n";
    assert_eq!(Menu::guess(text), Some(Dialect::GrubLegacy));
    let menu = Menu::read(Dialect::GrubLegacy, text, &mut none);
    assert_eq!((menu.timeout, menu.other_default), (Some(10), true));
    assert!(menu.notes[0].contains("'Windows'"), "{:?}", menu.notes);
    let entry = &menu.entries[0];
    assert_eq!((&*entry.title, &*entry.kernel), ("CentOS (2.6.32)", "/vmlinuz-2.6.32"));
    assert_eq!(entry.append, "ro root=UUID=ab-cd quiet");
    assert_eq!(entry.initrd, ["/initramfs-2.6.32.img"]);
    assert_eq!(menu.words_in_front(entry), "");
    let text = "set DIR=/live\niftitle [if exist /x] Debian \\n Live\nkernel %dir%/vmlinuz boot=live \
                live-media-path=%DIR% %more%\ninitrd /ucode.img @a=%DIR%/initrd.img\ntitle Xen\n\
                kernel /xen.gz\nmodule /vmlinuz root=/dev/sda1\ntitle Tester\nkernel /memtest86\n\
                title More\nconfigfile /more.lst\ntitle By machine\nif \"%a%\"==\"b\" kernel /b \
                root=/dev/sda1\n";
    let mut load = |name: &str| {
        assert_eq!(name, "/more.lst");
        Some("default 1\ntimeout 3\ntitle a\nkernel /a x\ntitle b\nkernel /b y\n".to_owned())
    };
    assert_eq!(Menu::guess(text), Some(Dialect::GrubLegacy), "it begins as GRUB 2's may");
    assert_eq!(Menu::guess("menu title x\nlabel a\nkernel v\n"), Some(Dialect::Syslinux));
    let menu = Menu::read(Dialect::GrubLegacy, text, &mut load);
    let got: Vec<_> = menu.entries.iter().map(|e| (&*e.title, &*e.kernel, &*e.append)).collect();
    let want = [
        ("Debian", "/live/vmlinuz", "boot=live live-media-path=/live %more%"),
        ("a", "/a", "x"),
        ("b", "/b", "y"),
        ("By machine", "/b", "root=/dev/sda1"),
    ];
    assert_eq!(got, want);
    assert_eq!(menu.entries[0].initrd, ["/ucode.img", "/live/initrd.img"]);
    assert_eq!((menu.default, menu.timeout), (0, None));
    let menu = Menu::read(Dialect::GrubLegacy, &format!("default 3\n{text}"), &mut load);
    assert_eq!(menu.default, 2, "the other menu's own default");
}

/// The first entry with a kernel was called the default of a menu that starts the disk.
#[test]
fn a_default_that_starts_no_kernel_is_not_given_to_another_entry() {
    let local = "DEFAULT local\nLABEL ka\nKERNEL v\nAPPEND kamethod\nLABEL local\nLOCALBOOT 0\n";
    let first = "LABEL local\nLOCALBOOT 0\nLABEL ka\nKERNEL v\n";
    let marked = "LABEL ka\nKERNEL v\nLABEL local\nMENU DEFAULT\nLOCALBOOT 0\n";
    for text in [local, first, marked] {
        let menu = Menu::read(Dialect::Syslinux, text, &mut none);
        assert!(menu.other_default, "{text}");
        assert!(menu.notes.iter().any(|note| note.contains("'local'")), "{:?}", menu.notes);
    }
    let ours = local.replace("DEFAULT local", "DEFAULT ka");
    assert!(!Menu::read(Dialect::Syslinux, &ours, &mut none).other_default);
    let grub = "set default=1\nmenuentry a { linux /v }\nmenuentry b { chainloader +1 }\n";
    assert!(Menu::read(Dialect::Grub, grub, &mut none).other_default);
    let ours = grub.replace("default=1", "default=0");
    assert!(!Menu::read(Dialect::Grub, &ours, &mut none).other_default);
}

fn starts(dialect: Dialect, text: &str) -> String {
    let menu = Menu::read(dialect, text, &mut |name| {
        (name == "other.cfg").then(|| "LABEL x\nKERNEL k\nLABEL y\nMENU DEFAULT\nKERNEL k\n".into())
    });
    match menu.other_default {
        true => "other".into(),
        false => menu.entries[menu.default].title.clone() + &menu.entries[menu.default].id,
    }
}

/// An installer started by itself where the menu says the live system.
#[test]
fn what_starts_by_itself_in_syslinux() {
    let two = "LABEL inst\nMENU DEFAULT\nKERNEL k\nLABEL live\nKERNEL k\n";
    let inner = "MENU BEGIN more\nLABEL a\nKERNEL k\nLABEL b\nMENU DEFAULT\nKERNEL k\n\
                     MENU END\nLABEL c\nKERNEL k\n";
    let which = "DEFAULT select\nLABEL select\nCOM32 whichsys.c32\nAPPEND -pxe- pxe -iso- sys\n\
                     LABEL pxe\nKERNEL k\nLABEL sys\nCONFIG other.cfg\n";
    for (text, id) in [
        (format!("DEFAULT vesamenu.c32\nONTIMEOUT live\n{two}"), "live"),
        (format!("{two}ONTIMEOUT live\n"), "live"),
        (format!("DEFAULT vesamenu.c32\n{two}"), "inst"),
        // UI makes DEFAULT stronger than MENU DEFAULT, wherever it is.
        (format!("UI vesamenu.c32\nDEFAULT live\n{two}"), "live"),
        (format!("DEFAULT live\n{two}"), "live"),
        (format!("ONTIMEOUT nothing\n{two}"), "other"),
        (format!("UI menu.c32\n{inner}"), "b"),
        (format!("UI menu.c32\nLABEL z\nKERNEL k\n{inner}"), "z"),
        (format!("LABEL z\nKERNEL k\n{}", inner.replace("more\n", "more\nMENU DEFAULT\n")), "b"),
        (format!("LABEL z\nKERNEL k\n{}", inner.replace("more\n", "more\nMENU START\n")), "b"),
        (which.to_owned(), "y"),
    ] {
        assert_eq!(starts(Dialect::Syslinux, &text), id, "{text}");
    }
}

#[test]
fn what_starts_by_itself_in_grub() {
    let text = "menuentry i { linux /k }\nsubmenu s --id sub {\nmenuentry a { linux /k }\n\
                    submenu t {\nmenuentry b --id bb { linux /k }\n}\nmenuentry 'x>y' { linux /k }\n}\n\
                    menuentry off { halt }\n";
    for (default, title) in [
        ("1>0", "aentry2"),
        ("1", "aentry2"),
        ("sub>t>bb", "bbb"),
        ("1>1", "bbb"),
        ("s>x>>y", "x>yentry4"),
        ("1>2>0", "x>yentry4"),
        ("2", "other"),
        ("9", "ientry1"),
        ("${saved_entry}", "ientry1"),
    ] {
        let text = format!("set default=\"{default}\"\n{text}");
        assert_eq!(starts(Dialect::Grub, &text), title, "{default}");
    }
    // Without a saved entry what was set before counts.
    let text = format!("set default=1\nset default=\"${{saved_entry}}\"\n{text}");
    assert_eq!(starts(Dialect::Grub, &text), "aentry2");
}

/// A kernel with an EFI stub counted as another program.
#[test]
fn kernels_named_efi() {
    let text = "LABEL live\nKERNEL /casper/vmlinuz.efi\nAPPEND initrd=/casper/initrd.lz x\n\
                    LABEL shell\nKERNEL /EFI/shellx64.efi\n";
    let menu = Menu::read(Dialect::Syslinux, text, &mut none);
    let [entry] = menu.entries.as_slice() else { panic!("{menu:?}") };
    assert_eq!(entry.kernel, "/casper/vmlinuz.efi");
}

/// With a single entry SYSLINUX and iPXE showed no menu and started it.
#[test]
fn a_single_entry_can_wait() {
    let entry = Entry { id: "wipe".into(), kernel: "k".into(), ..Entry::default() };
    let menu = Menu { entries: vec![entry], ..Menu::default() };
    assert!(menu.to_syslinux(true).unwrap().contains("UI menu.c32\n"));
    assert!(menu.to_ipxe().unwrap().contains("--timeout 0 target"));
    let menu = Menu { timeout: Some(3), ..menu };
    assert!(!menu.to_syslinux(true).unwrap().contains("UI"));
}

/// Words behind the kernel's name were lost, and what pxelinux adds or does not join was
/// not mentioned.
#[test]
fn what_pxelinux_makes_of_a_line() {
    let text = "DEFAULT a\nLABEL a\nLINUX v boot=live toram\nAPPEND quiet\nIPAPPEND 3\n\
            LABEL b\nKERNEL v\nAPPEND root=/dev/ram3 \\\n rescue kamethod\n\
            LABEL c\nCONFIG other.cfg\nLABEL d\nKERNEL menu.c32\nAPPEND third.cfg\n";
    let menu = Menu::read(Dialect::Syslinux, text, &mut |name| {
        Some(format!("LABEL {name}\nKERNEL k\nAPPEND from-{name}\n"))
    });
    let appends: Vec<&str> = menu.entries.iter().map(|e| e.append.as_str()).collect();
    assert_eq!(
        appends,
        ["boot=live toram quiet", "root=/dev/ram3 \\", "from-other.cfg", "from-third.cfg"]
    );
    for piece in ["ip=CLIENT:", "BOOTIF=", "does not join", "menu other.cfg"] {
        assert!(menu.notes.iter().any(|note| note.contains(piece)), "{:?}", menu.notes);
    }
    assert_eq!((menu.default, menu.other_default), (0, false));
}

/// A tabulator in a label made a whole medium useless.
#[test]
fn control_characters_become_blanks() {
    let syslinux = "menu title A\tB\nlabel live\nmenu label Live\t(amd64)\x07\n\
                        kernel /k\nappend initrd=/i quiet\tsplash\n";
    let grub = "menuentry 'Live\t(amd64)' {\nlinux /k quiet\tsplash\ninitrd /i\n}\n";
    for (dialect, text) in [(Dialect::Syslinux, syslinux), (Dialect::Grub, grub)] {
        let menu = Menu::read(dialect, text, &mut none);
        assert!(menu.entries[0].title.starts_with("Live (amd64)"), "{menu:?}");
        assert_eq!(menu.entries[0].append, "quiet splash");
        menu.check().unwrap();
    }
}

#[test]
fn grub_entries() {
    let menu = Menu::read(Dialect::Grub, GRUB, &mut none);
    assert_eq!((menu.timeout, menu.default), (Some(30), 2));
    let [live, safe, last] = menu.entries.as_slice() else { panic!("{menu:#?}") };
    assert_eq!((live.id.as_str(), live.title.as_str()), ("live", "Live system (amd64)"));
    assert_eq!(live.append, "boot=live a=1 b=2 \"a=1 b=2\" file=$x c=$d findiso=");
    assert_eq!(live.initrd, ["/live/initrd.img", "/more.img"]);
    assert_eq!(safe.title, "It's safe");
    assert_eq!(safe.append, "boot=casper nomodeset ---");
    assert_eq!(safe.initrd, ["/casper/initrd"]);
    assert_eq!(last.append, "\"root=LABEL=a b\"");
}

#[test]
fn variables_and_includes_do_not_explode() {
    let mut text = String::from("set a=xxxxxxxxxxxxxxxx\n");
    for _ in 0..200 {
        text.push_str("set a=\"$a$a\"\n");
    }
    text.push_str("menuentry a { linux /k $a }\n");
    let menu = Menu::read(Dialect::Grub, &text, &mut none);
    assert!(menu.entries[0].append.len() <= LINE_MAX);
    for (dialect, word) in [(Dialect::Grub, "source"), (Dialect::Syslinux, "include")] {
        // Every file goes on in two others.
        let mut n = 0;
        let mut load = |_: &str| {
            n += 1;
            Some(format!("{word} {n}a\n{word} {n}b\n"))
        };
        let menu = Menu::read(dialect, &format!("{word} x\n{word} y\n"), &mut load);
        assert_eq!(menu.notes, ["it leads to more than 64 files; no more were read"]);
    }
}

/// Menus that lead back to each other had "more than 64 files".
#[test]
fn menus_lead_to_each_other() {
    let main = "menuentry A { configfile a }\nmenuentry B { configfile b }\nmenuentry c { configfile c }\n";
    let grub = |name: &str| {
        let back = "menuentry Back { configfile main }\n";
        Some(match name {
            "main" => main.to_owned(),
            _ => format!("{main}{back}menuentry {name}1 {{ linux /{name} }}\n"),
        })
    };
    let menu = Menu::read(Dialect::Grub, main, &mut |name| grub(name));
    let kernels: Vec<_> = menu.entries.iter().map(|entry| entry.kernel.as_str()).collect();
    assert_eq!(kernels, ["/c", "/b", "/a"]);
    assert_eq!(menu.notes, ["the menu's default is 'A', which starts no Linux kernel"]);
    let main = "label a\nconfig x\nlabel k\nlinux v\n";
    let menu = Menu::read(Dialect::Syslinux, main, &mut |_| Some(main.into()));
    assert_eq!(menu.entries.len(), 1);
    let main = "#!ipxe\nchain a\nchain b\nkernel v x\nboot\n";
    let mut chained = |_: &str| Some(format!("{main}# another\n"));
    assert_eq!(super::ipxe::read(main, &mut chained).entries.len(), 2);
}

#[test]
fn which_loader() {
    assert_eq!(Menu::guess(ISOLINUX), Some(Dialect::Syslinux));
    assert_eq!(Menu::guess(GRUB), Some(Dialect::Grub));
    assert_eq!(Menu::guess("\0\0"), None);
}

#[test]
fn ipxe_scripts() {
    let mut menu = Menu {
        timeout: Some(3),
        entries: vec![Entry {
            id: "live".into(),
            kernel: "vmlinuz".into(),
            initrd: vec!["sub/initrd.img".into()],
            append: "boot=live".into(),
            ..Entry::default()
        }],
        ..Menu::default()
    };
    let text = menu.to_ipxe().unwrap();
    assert!(text.contains("kernel --name BOOT_IMAGE=vmlinuz vmlinuz initrd=initrd.img BOOTIF=01-${netX/mac:hexhyp} boot=live\ninitrd sub/initrd.img\nboot\n"), "{text}");
    let text = menu.to_ipxe_with(|_| vec![("x86_64", "/m/shim.efi".into())]).unwrap();
    assert!(text.contains("&& shim /m/shim.efi ||\nboot ||\necho This kernel did"), "{text}");
    menu.entries[0].append = "x=${y}".into();
    assert!(menu.to_ipxe().is_err());
    menu.entries[0].append = "a\nb".into();
    assert!(menu.to_syslinux(false).unwrap_err().to_string().contains("'a\\nb' does not fit"));
    assert_eq!(Menu::default().to_grub(false), Err(MenuError::Empty));
}

#[test]
fn machines_that_boot_from_their_disks() {
    let entries = vec![
        Entry { id: "copy".into(), kernel: "/vmlinuz".into(), ..Entry::default() },
        Entry::disk("disk", "Disk"),
    ];
    let menu = Menu { entries, per_machine: true, ..Menu::default() };
    assert!(
        menu.to_syslinux(true).unwrap().contains("LABEL disk\n  MENU LABEL Disk\n  LOCALBOOT 0\n")
    );
    let grub = menu.to_grub(true).unwrap();
    assert!(grub.contains("set own=/grub/$net_default_mac.cfg\n"), "{grub}");
    assert!(grub.contains("menuentry Disk --id disk {\n  for loader in /EFI/debian"), "{grub}");
    assert!(grub.ends_with("\n      boot\n    fi\n  done\n  exit\n}\n"), "{grub}");
    let ipxe = menu.to_ipxe().unwrap();
    let own = "#!ipxe\nimgfetch --name own boot-${netX/mac:hexhyp}.ipxe && goto own-menu ||\n";
    assert!(ipxe.starts_with(own), "{ipxe}");
    assert!(ipxe.contains("--drive 0x80 ||\nexit 1\n\n:own-menu\n"), "{ipxe}");
    let files = disk_menus("52:54:00:AB:cd:01").unwrap();
    let paths: Vec<&str> = files.iter().map(|f| f.0.as_str()).collect();
    let name = "01-52-54-00-ab-cd-01";
    assert_eq!(paths[0], format!("pxelinux.cfg/{name}"));
    assert_eq!(paths[1], format!("grub/grub.cfg-{name}"));
    assert_eq!(paths[2..], ["grub/52:54:00:ab:cd:01.cfg", "boot-52-54-00-ab-cd-01.ipxe"]);
    assert!(files[0].1.contains("DEFAULT disk\n"));
}

prop_compose! {
    fn entry()(
        kernel in "/[a-z0-9.-]{1,12}[a-z]",
        initrd in prop::collection::vec("/[a-z0-9.$'-]{1,12}", 0..3),
        append in prop::collection::vec("[a-z0-9.=:/$;{}'#,&|<>!*-]{0,12}[a-z0-9]", 0..5),
        title in "[A-Za-z(][A-Za-z0-9 ()'$#{}.-]{0,20}[a-z)]",
    ) -> Entry {
        Entry { id: String::new(), title, kernel, initrd, append: append.join(" ") }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        entries in prop::collection::vec(entry(), 1..5),
        timeout in prop::option::of(1u32..1000),
        default in 0usize..5,
    ) {
        let mut menu = Menu { title: "Some menu".into(), timeout, default: default % entries.len(), entries, per_machine: false, ..Menu::default() };
        for (n, entry) in menu.entries.iter_mut().enumerate() {
            entry.id = format!("entry{n}");
            // SYSLINUX would read these itself.
            entry.append = entry.append.replace("initrd=", "x=");
        }
        let mut read = Menu::read(Dialect::Syslinux, &menu.to_syslinux(true).unwrap(), &mut none);
        read.notes.clear();
        // Without a menu it starts at once.
        let shown = if menu.waits() { menu.timeout } else { Some(0) };
        let timeout = core::mem::replace(&mut menu.timeout, shown);
        menu.loader = Some(Dialect::Syslinux);
        prop_assert_eq!(&read, &menu);
        menu.timeout = timeout;
        menu.title.clear();
        menu.loader = Some(Dialect::Grub);
        let read = Menu::read(Dialect::Grub, &menu.to_grub(false).unwrap(), &mut none);
        prop_assert_eq!(&read, &menu);
    }

    #[test]
    fn garbage_is_survived(text in any::<String>(), more in "[a-z{}$\"'\\\\\n ;=#]{0,200}") {
        for text in [&text, &more, &format!("{GRUB}{more}{GRUB}"), &format!("{ISOLINUX}{more}")] {
            for dialect in Dialect::ALL {
                let _ = Menu::read(dialect, text, &mut |name| (name.len() > 3).then(|| more.clone()));
            }
        }
    }
}

/// A submenu's own arguments were not known in it, so that `img_loop=` was empty.
#[test]
fn a_submenus_arguments_are_known_in_it() {
    let text = "for isofile in $isopath/arch-*.iso; do\n  if [ -e \"$isofile\" ]; then\n    \
        submenu \"$isofile ->\" \"$isofile\" {\n      iso_path=\"$2\"\n      \
        menuentry 'Live' { linux (loop)/arch/vmlinuz img_loop=\"${iso_path}\" a=$1 }\n    }\n  fi\ndone\n";
    let menu = Menu::read_as_written(Dialect::Grub, text, &mut none);
    assert_eq!(menu.entries[0].append, "img_loop=${isofile} a=Live");
    let words = menu.words_in_front(&menu.entries[0]);
    assert_eq!(words, "BOOT_IMAGE=(loop)/arch/vmlinuz ");
}

/// The first entry was called the default, although SYSLINUX waits at its prompt.
#[test]
fn without_default_and_menu_nothing_starts() {
    let entry = "label a\nlinux k\nappend root=/dev/sda1\n";
    for (lines, waits) in
        [("", true), ("default a\n", false), ("ui menu.c32\n", false), ("ontimeout a\n", false)]
    {
        let menu = Menu::read(Dialect::Syslinux, &format!("{lines}{entry}"), &mut none);
        assert_eq!((menu.other_default, menu.notes.len()), (waits, usize::from(waits)), "{lines}");
    }
}
