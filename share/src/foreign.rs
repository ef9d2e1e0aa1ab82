//! Media of systems that are no Linux, and of boot loaders alone: what they are, for the sentence that
//! refuses them.

use crate::tree::{ReadAt, Tree};

/// One of these files is on such a medium; what it is.
const ROWS: &[(&[&str], &str)] = &[
    (
        &[
            "/sources/boot.wim",
            "/sources/install.*",
            "/bootmgr",
            "/i386/setupldr.*",
            "/*/*/boot.wim",
        ],
        "a Windows medium",
    ),
    (&["/boot/xen*", "/*/*/xen*.gz", "/xen*.gz"], "a medium that starts the hypervisor Xen"),
    (&["/mboot.c32", "/efi/boot/boot.cfg", "/b.b00"], "a medium of VMware ESXi"),
    (
        &["/boot/kernel/kernel", "/boot/kernel/kernel.gz", "/boot/loader.efi", "/boot/loader"],
        "a FreeBSD medium (so are OPNsense, pfSense and GhostBSD)",
    ),
    (&["/*/*/bsd.rd", "/bsd.rd", "/cdbr"], "an OpenBSD medium"),
    (&["/netbsd*", "/stand/*/modules"], "a NetBSD medium"),
    (&["/platform/i86pc/*/*/unix", "/platform/i86pc/kernel"], "a medium of Solaris or illumos"),
    (
        &["/boot/memtest*", "/memtest*", "/efi/boot/mt86*", "/boot/mt86*", "/*linux/memtest*"],
        "a memory test",
    ),
    (
        &["/ipxe*", "/boot/ipxe*", "/*linux/ipxe*", "/netboot.xyz*"],
        "an iPXE medium, which loads systems from elsewhere",
    ),
    (&["/freeldr.*", "/reactos"], "a ReactOS medium"),
    (&["/haiku*", "/boot/haiku*"], "a Haiku medium"),
    (&["/io.sys", "/kernel.sys", "/freedos", "/command.com"], "a DOS medium"),
    (
        &["/system/library/coreservices/boot.efi", "/install macos*", "/install os x*"],
        "a macOS medium",
    ),
    (
        &[
            "/boot/grub*",
            "/grub*",
            "/ventoy",
            "/*linux/*linux.bin",
            "/efi/boot/*.efi",
            "/efi/*/*.efi",
        ],
        "a medium with boot loaders or firmware programs alone",
    ),
];

/// How memory tests call their volumes: they are one program of the firmware.
const MEMORY_TESTS: &[&str] = &["MT86", "MEMTEST"];

/// What a medium of that title is that starts no Linux kernel; `None` when that is not known.
pub fn of(tree: &Tree, title: &str, image: Option<&dyn ReadAt>) -> Option<&'static str> {
    if MEMORY_TESTS.iter().any(|name| title.to_ascii_uppercase().starts_with(name)) {
        return Some("a memory test");
    }
    let there = |patterns: &[&str]| patterns.iter().any(|p| !tree.matching(p).is_empty());
    let row = ROWS.iter().find(|(files, _)| there(files)).map(|(_, what)| *what);
    row.or_else(|| {
        // Its files are in UDF; ISO 9660 has a text that says so.
        let udf = image.is_some_and(has_udf) && tree.len() <= 4;
        udf.then_some("a UDF medium, whose files are not read (Windows media are such ones)")
    })
}

/// Whether there is UDF beside ISO 9660: a descriptor `BEA01` follows its descriptors (ECMA-167 2/9).
fn has_udf(image: &dyn ReadAt) -> bool {
    (16..64).any(|sector| {
        let mut id = [0; 5];
        image.read_exact_at(&mut id, sector * 2048 + 1).is_ok() && id == *b"BEA01"
    })
}
