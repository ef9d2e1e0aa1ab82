//! share-layouts: stand-ins with the files and menus of distributions' media, read as `share`
//! reads them, from the menu's file to the client's line.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

#[path = "../../cpio-builder/tests/common/mod.rs"]
mod common;
#[path = "stand_ins/more.rs"]
mod more;

use cpio_builder::newc::{Archive, Node};
use share::error::Error;
use share::event::Watch;
use share::files::Files;
use share::layout::Place;
use share::media::{self, Media, Sources};
use share::options::Options;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// A stand-in: its name; menu file and text; other files, `K` kernels and `I` initramfs, with
/// lines' ends; the row; whether ours starts; the first entry and a piece of its line.
struct Case {
    name: &'static str,
    menu: (&'static str, &'static str),
    files: &'static str,
    row: &'static str,
    ours: bool,
    first: &'static str,
    line: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "Debian live",
        menu: (
            "isolinux/isolinux.cfg",
            "UI vesamenu.c32\nMENU TITLE Boot menu\nDEFAULT live-amd64\nTIMEOUT 0\nLABEL live-amd64\nMENU LABEL ^Live system (amd64)\nMENU DEFAULT\nlinux /live/vmlinuz-6.1.0-13-amd64\ninitrd /live/initrd.img-6.1.0-13-amd64\nappend boot=live components quiet splash findiso=\nLABEL installstart\nMENU LABEL Start ^installer\nlinux /install/vmlinuz\ninitrd /install/initrd.gz\nappend vga=788  --- quiet\n",
        ),
        files: "K/live/vmlinuz-6.1.0-13-amd64 I/live/initrd.img-6.1.0-13-amd64 K/install/vmlinuz I/install/initrd.gz /live/filesystem.squashfs /.disk/info",
        row: "Debian live layout",
        ours: true,
        first: "Live system (amd64)",
        line: "boot=live netboot=nfs nfsroot=10.0.0.1:/m nfsopts=",
    },
    Case {
        name: "Debian netinst",
        menu: (
            "isolinux/isolinux.cfg",
            "path\ninclude menu.cfg\ndefault vesamenu.c32\nprompt 0\ntimeout 0\nlabel installgui\n\tmenu label ^Graphical install\n\tmenu default\n\tkernel /install.amd/vmlinuz\n\tappend vga=788 initrd=/install.amd/gtk/initrd.gz --- quiet\n",
        ),
        files: "K/install.amd/vmlinuz I/install.amd/gtk/initrd.gz /dists/bookworm/Release /.disk/info",
        row: "Debian installer",
        ours: false,
        first: "Graphical install",
        line: "vga=788 --- quiet",
    },
    Case {
        name: "Ubuntu 24.04",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=30\nloadfont unicode\nmenuentry \"Try or Install Ubuntu\" {\n\tset gfxpayload=keep\n\tlinux\t/casper/vmlinuz  --- quiet splash\n\tinitrd\t/casper/initrd\n}\nmenuentry \"Ubuntu (safe graphics)\" {\n\tlinux\t/casper/vmlinuz nomodeset  --- quiet splash\n\tinitrd\t/casper/initrd\n}\n",
        ),
        files: "K/casper/vmlinuz I/casper/initrd /casper/minimal.squashfs /casper/minimal.standard.live.squashfs /.disk/info",
        row: "casper layout",
        ours: true,
        first: "Try or Install Ubuntu",
        line: "boot=casper netboot=nfs nfsroot=10.0.0.1:/m",
    },
    Case {
        name: "Linux Mint",
        menu: (
            "isolinux/isolinux.cfg",
            "default vesamenu.c32\ntimeout 100\nlabel live\n  menu label Start Linux Mint\n  kernel /casper/vmlinuz\n  append  boot=casper uuid=x username=mint hostname=mint initrd=/casper/initrd.lz quiet splash --\nmenu default\n",
        ),
        files: "K/casper/vmlinuz I/casper/initrd.lz /casper/filesystem.squashfs",
        row: "casper layout",
        ours: true,
        first: "Start Linux Mint",
        line: "boot=casper netboot=nfs",
    },
    Case {
        name: "LMDE",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=10\nmenuentry \"Start LMDE 6 64-bit\" {\n linux /live/vmlinuz boot=live live-config live-media-path=/live quiet splash --\n initrd /live/initrd.lz\n}\n",
        ),
        files: "K/live/vmlinuz I/live/initrd.lz /live/filesystem.squashfs",
        row: "Debian live layout",
        ours: true,
        first: "Start LMDE 6 64-bit",
        line: "live-media-path=/live",
    },
    Case {
        name: "Ubuntu 16.04",
        menu: (
            "isolinux/txt.cfg",
            "default live\nlabel live\n  menu label ^Try Ubuntu without installing\n  kernel /casper/vmlinuz.efi\n  append  file=/cdrom/preseed/ubuntu.seed boot=casper initrd=/casper/initrd.lz quiet splash ---\n",
        ),
        files: "N/isolinux/isolinux.cfg K/casper/vmlinuz.efi I/casper/initrd.lz /casper/filesystem.squashfs",
        row: "casper layout",
        ours: true,
        first: "Try Ubuntu without installing",
        line: "boot=casper netboot=nfs",
    },
    Case {
        name: "Pop!_OS",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=10\nmenuentry \"Try or Install Pop_OS\" {\n linux /casper_pop-os_22.04/vmlinuz.efi boot=casper live-media-path=/casper_pop-os_22.04 hostname=pop-os username=pop-os noprompt ---\n initrd /casper_pop-os_22.04/initrd.gz\n}\n",
        ),
        files: "K/casper_pop-os_22.04/vmlinuz.efi I/casper_pop-os_22.04/initrd.gz /casper_pop-os_22.04/filesystem.squashfs",
        row: "casper layout",
        ours: true,
        first: "Try or Install Pop_OS",
        line: "live-media-path=/casper_pop-os_22.04",
    },
    Case {
        name: "grml",
        menu: (
            "boot/isolinux/grml64.cfg",
            "label grml64-full\n  menu label ^grml64-full\n  menu default\n  kernel /boot/grml64full/vmlinuz\n  append initrd=/boot/grml64full/initrd.img apm=power-off boot=live live-media-path=/live/grml64-full/ nomce net.ifnames=0\n",
        ),
        files: "N/boot/isolinux/isolinux.cfg K/boot/grml64full/vmlinuz I/boot/grml64full/initrd.img /live/grml64-full/grml64-full.squashfs",
        row: "Debian live layout",
        ours: true,
        first: "grml64-full",
        line: "live-media-path=/live/grml64-full/",
    },
    Case {
        name: "Clonezilla live",
        menu: (
            "syslinux/syslinux.cfg",
            "default vesamenu.c32\ntimeout 300\nlabel Clonezilla live\n  MENU DEFAULT\n  MENU LABEL Clonezilla live (VGA 800x600)\n  kernel /live/vmlinuz\n  append initrd=/live/initrd.img boot=live union=overlay username=user config components quiet loglevel=0 noswap edd=on nomodeset ocs_live_run=\"ocs-live-general\" ip= vga=788\n",
        ),
        files: "K/live/vmlinuz I/live/initrd.img /live/filesystem.squashfs",
        row: "Debian live layout",
        ours: true,
        first: "Clonezilla live (VGA 800x600)",
        line: "nfsroot=10.0.0.1:/m",
    },
    Case {
        name: "GParted live",
        menu: (
            "syslinux/isolinux.cfg",
            "default vesamenu.c32\ntimeout 300\nlabel GParted Live\n  MENU DEFAULT\n  MENU LABEL GParted Live (Default settings)\n  kernel /live/vmlinuz\n  append initrd=/live/initrd.img boot=live union=overlay username=user config components quiet noswap ip= net.ifnames=0 nosplash\n",
        ),
        files: "K/live/vmlinuz I/live/initrd.img /live/filesystem.squashfs",
        row: "Debian live layout",
        ours: true,
        first: "GParted Live (Default settings)",
        line: "nfsroot=10.0.0.1:/m",
    },
    Case {
        name: "Kali live",
        menu: (
            "isolinux/live.cfg",
            "label live-amd64\n\tmenu label ^Live system (amd64)\n\tmenu default\n\tlinux /live/vmlinuz\n\tinitrd /live/initrd.img\n\tappend boot=live components quiet splash noeject\nlabel installgui\n\tmenu label Start installer\n\tlinux /install/gtk/vmlinuz\n\tinitrd /install/gtk/initrd.gz\n\tappend video=vesa:ywrap,mtrr vga=788 net.ifnames=0\n",
        ),
        files: "N/isolinux/isolinux.cfg K/live/vmlinuz I/live/initrd.img K/install/gtk/vmlinuz I/install/gtk/initrd.gz /live/filesystem.squashfs",
        row: "Debian live layout",
        ours: true,
        first: "Live system (amd64)",
        line: "noeject",
    },
    Case {
        name: "Tails",
        menu: (
            "isolinux/live.cfg",
            "label live\n menu label Tails\n menu default\n kernel /live/vmlinuz\n append initrd=/live/initrd.img boot=live config live-media=removable nopersistence noprompt timezone=Etc/UTC splash noautologin module=Tails quiet\n",
        ),
        files: "N/isolinux/isolinux.cfg K/live/vmlinuz I/live/initrd.img /live/filesystem.squashfs /live/Tails.module",
        row: "Debian live layout",
        ours: true,
        first: "Tails",
        line: "module=Tails",
    },
    Case {
        name: "Fedora Workstation",
        menu: (
            "isolinux/isolinux.cfg",
            "default vesamenu.c32\ntimeout 600\nlabel check\n  menu label Test this ^media & start\n  menu default\n  kernel vmlinuz\n  append initrd=initrd.img root=live:CDLABEL=Fedora-WS-Live-36 rd.live.image rd.live.check quiet rhgb\nlabel linux\n  menu label ^Start Fedora\n  kernel vmlinuz\n  append initrd=initrd.img root=live:CDLABEL=Fedora-WS-Live-36 rd.live.image quiet rhgb\n",
        ),
        files: "K/isolinux/vmlinuz I/isolinux/initrd.img /LiveOS/squashfs.img",
        row: "LiveOS layout",
        ours: true,
        first: "Test this media & start",
        line: "bw.root=nfs:10.0.0.1:/m",
    },
    Case {
        name: "Rocky DVD",
        menu: (
            "isolinux/isolinux.cfg",
            "default vesamenu.c32\ntimeout 600\nlabel linux\n  menu label ^Install Rocky Linux 9\n  kernel vmlinuz\n  append initrd=initrd.img inst.stage2=hd:LABEL=Rocky-9 quiet\nlabel check\n  menu label Test this ^media & install\n  menu default\n  kernel vmlinuz\n  append initrd=initrd.img inst.stage2=hd:LABEL=Rocky-9 rd.live.check quiet\nmenu begin ^Troubleshooting\nlabel rescue\n  menu label ^Rescue a Rocky Linux system\n  kernel vmlinuz\n  append initrd=initrd.img inst.stage2=hd:LABEL=Rocky-9 inst.rescue quiet\nmenu end\n",
        ),
        files: "K/isolinux/vmlinuz I/isolinux/initrd.img /images/install.img /BaseOS/repodata/repomd.xml",
        row: "Anaconda installer",
        ours: false,
        first: "Test this media & install",
        line: "inst.stage2=http://10.0.0.1:8080/m inst.repo=http://10.0.0.1:8080/m ip=dhcp quiet",
    },
    Case {
        name: "Fedora netinst",
        menu: (
            "EFI/BOOT/grub.cfg",
            "set default=\"1\"\nset timeout=60\nmenuentry 'Install Fedora 40' {\n linux /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=Fedora-E-dvd quiet\n initrd /images/pxeboot/initrd.img\n}\nmenuentry 'Test this media & install Fedora 40' {\n linux /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=Fedora-E-dvd rd.live.check quiet\n initrd /images/pxeboot/initrd.img\n}\n",
        ),
        files: "K/images/pxeboot/vmlinuz I/images/pxeboot/initrd.img /images/install.img",
        row: "Anaconda installer",
        ours: false,
        first: "Test this media & install Fedora 40",
        line: "inst.stage2=http://10.0.0.1:8080/m ip=dhcp quiet",
    },
    Case {
        name: "openSUSE installer",
        menu: (
            "boot/x86_64/loader/isolinux.cfg",
            "default harddisk\nlabel harddisk\n  localboot -2\nlabel linux\n  kernel linux\n  append initrd=initrd splash=silent showopts\nimplicit 1\ntimeout 600\n",
        ),
        files: "K/boot/x86_64/loader/linux I/boot/x86_64/loader/initrd /boot/x86_64/root",
        row: "openSUSE installer",
        ours: false,
        first: "linux",
        line: "install=http://10.0.0.1:8080/m netsetup=dhcp",
    },
    Case {
        name: "Alpine Linux",
        menu: (
            "boot/syslinux/syslinux.cfg",
            "TIMEOUT 10\nPROMPT 1\nDEFAULT lts\nLABEL lts\nMENU LABEL Linux lts\nKERNEL /boot/vmlinuz-lts\nINITRD /boot/initramfs-lts\nFDTDIR /boot/dtbs-lts\nAPPEND modules=loop,squashfs,sd-mod,usb-storage quiet\n",
        ),
        files: "K/boot/vmlinuz-lts I/boot/initramfs-lts /boot/modloop-lts /apks/x86_64/APKINDEX.tar.gz",
        row: "Alpine Linux",
        ours: false,
        first: "Linux lts",
        line: "alpine_repo=http://10.0.0.1:8080/m/apks modloop=http://10.0.0.1:8080/m/boot/modloop-lts ip=dhcp",
    },
    Case {
        name: "Tiny Core",
        menu: (
            "boot/isolinux/isolinux.cfg",
            "display boot.msg\ndefault microcore\nlabel microcore\n\tkernel /boot/vmlinuz\n\tinitrd /boot/core.gz\n\tappend loglevel=3\nprompt 1\ntimeout 600\n",
        ),
        files: "K/boot/vmlinuz I/boot/core.gz",
        row: "Tiny Core",
        ours: false,
        first: "microcore",
        line: "loglevel=3",
    },
    Case {
        name: "Fedora CoreOS",
        menu: (
            "EFI/fedora/grub.cfg",
            "set timeout=5\nmenuentry 'Fedora CoreOS (Live)' {\n linux /images/pxeboot/vmlinuz coreos.liveiso=fedora-coreos-40 ignition.firstboot ignition.platform.id=metal\n initrd /images/pxeboot/initrd.img /images/ignition.img\n}\n",
        ),
        files: "K/images/pxeboot/vmlinuz I/images/pxeboot/initrd.img I/images/ignition.img /images/pxeboot/rootfs.img",
        row: "Fedora CoreOS",
        ours: false,
        first: "Fedora CoreOS (Live)",
        line: "coreos.live.rootfs_url=http://10.0.0.1:8080/m/images/pxeboot/rootfs.img rd.neednet=1 ip=dhcp ignition.firstboot",
    },
    Case {
        name: "NixOS",
        menu: (
            "isolinux/isolinux.cfg",
            "SERIAL 0 115200\nTIMEOUT 100\nUI vesamenu.c32\nMENU TITLE NixOS\nDEFAULT boot\nLABEL boot\nMENU LABEL NixOS 24.05 Installer\nLINUX /boot/bzImage\nAPPEND init=/nix/store/x-nixos/init root=LABEL=nixos-minimal boot.shell_on_fail\nINITRD /boot/initrd\n",
        ),
        files: "K/boot/bzImage I/boot/initrd /nix-store.squashfs",
        row: "NixOS",
        ours: false,
        first: "NixOS 24.05 Installer",
        line: "root=LABEL=nixos-minimal",
    },
    Case {
        name: "Proxmox VE",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=20\nmenuentry 'Install Proxmox VE' {\n linux /boot/linux26 ro ramdisk_size=16777216 rw quiet splash=silent\n initrd /boot/initrd.img\n}\n",
        ),
        files: "K/boot/linux26 I/boot/initrd.img /pve-installer.squashfs /.pve-cd-id.txt",
        row: "Proxmox installer",
        ours: false,
        first: "Install Proxmox VE",
        line: "ramdisk_size=16777216",
    },
    Case {
        name: "Arch Linux",
        menu: (
            "loader/entries/01-archiso-x86_64-linux.conf",
            "title Arch Linux install medium (x86_64, UEFI)\nsort-key 01\nlinux /arch/boot/x86_64/vmlinuz-linux\ninitrd /arch/boot/x86_64/initramfs-linux.img\noptions archisobasedir=arch archisosearchuuid=2024-06-01-11-11-11-00\n",
        ),
        files: "K/arch/boot/x86_64/vmlinuz-linux I/arch/boot/x86_64/initramfs-linux.img /arch/x86_64/airootfs.sfs",
        row: "archiso layout",
        ours: true,
        first: "Arch Linux install medium (x86_64, UEFI)",
        line: "archiso_nfs_srv=10.0.0.1:/m archiso_nfs_opt=",
    },
    Case {
        name: "SystemRescue",
        menu: (
            "sysresccd/boot/syslinux/sysresccd_sys.cfg",
            "LABEL sysresccd64_default\nMENU LABEL Boot SystemRescue using default options\nLINUX /sysresccd/boot/x86_64/vmlinuz\nINITRD /sysresccd/boot/intel_ucode.img,/sysresccd/boot/x86_64/sysresccd.img\nAPPEND archisobasedir=sysresccd archisolabel=RESCUE1100 iomem=relaxed\n",
        ),
        files: "K/sysresccd/boot/x86_64/vmlinuz I/sysresccd/boot/intel_ucode.img I/sysresccd/boot/x86_64/sysresccd.img /sysresccd/x86_64/airootfs.sfs",
        row: "archiso layout",
        ours: true,
        first: "Boot SystemRescue using default options",
        line: "archisobasedir=sysresccd iomem=relaxed",
    },
    Case {
        name: "Manjaro",
        menu: (
            "boot/grub/loopback.cfg",
            "menuentry \"Boot with open source drivers\" {\n linux /boot/vmlinuz-x86_64 misobasedir=manjaro misolabel=MANJARO driver=free nouveau.modeset=1 quiet\n initrd /boot/intel_ucode.img /boot/initramfs-x86_64.img\n}\n",
        ),
        files: "K/boot/vmlinuz-x86_64 I/boot/intel_ucode.img I/boot/initramfs-x86_64.img /manjaro/x86_64/rootfs.sfs /manjaro/x86_64/desktopfs.sfs /manjaro/x86_64/mhwdfs.sfs /manjaro/x86_64/livefs.sfs",
        row: "Manjaro",
        ours: true,
        first: "Boot with open source drivers",
        line: "bw.layers=manjaro/x86_64/rootfs.sfs,manjaro/x86_64/desktopfs.sfs,manjaro/x86_64/mhwdfs.sfs,manjaro/x86_64/livefs.sfs",
    },
    Case {
        name: "Gentoo (genkernel)",
        menu: (
            "isolinux/isolinux.cfg",
            "default gentoo\ntimeout 150\nlabel gentoo\n  kernel /boot/gentoo\n  append root=/dev/ram0 init=/linuxrc  dokeymap looptype=squashfs loop=/image.squashfs cdroot initrd=/boot/gentoo.igz vga=791\n",
        ),
        files: "K/boot/gentoo I/boot/gentoo.igz /image.squashfs",
        row: "Gentoo",
        ours: true,
        first: "gentoo",
        line: "bw.layers=image.squashfs bw.overlay ip=dhcp dokeymap looptype=squashfs",
    },
    Case {
        name: "Knoppix",
        menu: (
            "boot/isolinux/isolinux.cfg",
            "DEFAULT knoppix\nAPPEND lang=en apm=power-off initrd=minirt.gz nomce\nPROMPT 1\nTIMEOUT 300\nLABEL knoppix\nKERNEL linux\nAPPEND lang=en apm=power-off initrd=minirt.gz nomce libata.force=noncq\n",
        ),
        files: "K/boot/isolinux/linux I/boot/isolinux/minirt.gz /KNOPPIX/KNOPPIX /KNOPPIX/KNOPPIX1",
        row: "Knoppix",
        ours: true,
        first: "knoppix",
        line: "bw.layers=KNOPPIX/KNOPPIX,KNOPPIX/KNOPPIX1 ",
    },
    Case {
        name: "antiX and MX",
        menu: (
            "boot/syslinux/syslinux.cfg",
            "UI gfxboot\nDEFAULT live\nTIMEOUT 600\nLABEL live\n  MENU LABEL MX-23\n  KERNEL /antiX/vmlinuz\n  APPEND quiet splasht nosplash\n  INITRD /antiX/initrd.gz\n",
        ),
        files: "K/antiX/vmlinuz I/antiX/initrd.gz /antiX/linuxfs",
        row: "antiX and MX",
        ours: true,
        first: "MX-23",
        line: "bw.layers=antiX/linuxfs bw.overlay",
    },
    Case {
        name: "Slax",
        menu: (
            "slax/boot/syslinux.cfg",
            "PROMPT 0\nTIMEOUT 40\nUI /slax/boot/vesamenu.c32\nLABEL default\nMENU LABEL Run Slax (Persistent changes)\nKERNEL /slax/boot/vmlinuz\nAPPEND vga=normal initrd=/slax/boot/initrfs.img load_ramdisk=1 prompt_ramdisk=0 rw printk.time=0 consoleblank=0 slax.flags=perch,automount\n",
        ),
        files: "K/slax/boot/vmlinuz I/slax/boot/initrfs.img /slax/01-core.sb /slax/02-xorg.sb /slax/modules/99-own.sb",
        row: "Slax",
        ours: true,
        first: "Run Slax (Persistent changes)",
        line: "from=/slax",
    },
    Case {
        name: "Porteus",
        menu: (
            "boot/syslinux/porteus.cfg",
            "PROMPT 0\nTIMEOUT 90\nUI /boot/syslinux/vesamenu.c32\nLABEL graphical\nMENU LABEL Graphics mode\nKERNEL vmlinuz\nINITRD initrd.xz\nAPPEND changes=/porteus\n",
        ),
        files: "K/boot/syslinux/vmlinuz I/boot/syslinux/initrd.xz /porteus/base/000-kernel.xzm /porteus/base/001-core.xzm /porteus/modules/x.xzm",
        row: "Porteus",
        ours: true,
        first: "Graphics mode",
        line: "bw.layers=porteus/base/000-kernel.xzm,porteus/base/001-core.xzm,porteus/modules/x.xzm",
    },
    Case {
        name: "Void Linux",
        menu: ("boot/grub/grub_void.cfg", ""),
        files: "K/boot/vmlinuz I/boot/initrd /LiveOS/squashfs.img M/boot/isolinux/isolinux.cfg",
        row: "LiveOS layout",
        ours: true,
        first: "Void Linux 6.6",
        line: "root=live:CDLABEL=VOID_LIVE",
    },
    Case {
        name: "Mageia live",
        menu: (
            "boot/grub2/grub.cfg",
            "set timeout=8\nmenuentry \"Boot Mageia Live\" --class gnome {\n linux /boot/vmlinuz root=mgalive:LABEL=Mageia-9-Live splash quiet noiswmd\n initrd /boot/cdrom/initrd.gz\n}\n",
        ),
        files: "K/boot/vmlinuz I/boot/cdrom/initrd.gz /loopbacks/distrib-lzma.sqfs",
        row: "Mageia",
        ours: true,
        first: "Boot Mageia Live",
        line: "bw.layers=loopbacks/distrib-lzma.sqfs",
    },
    Case {
        name: "OpenMandriva",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=10\nmenuentry \"Start OpenMandriva Lx\" {\n linux /boot/vmlinuz0 root=live:UUID=2024-04-01-00-00-00-00 rd.live.image locale.lang=en_US splash quiet\n initrd /boot/liveinitrd.img\n}\n",
        ),
        files: "K/boot/vmlinuz0 I/boot/liveinitrd.img /LiveOS/squashfs.img",
        row: "LiveOS layout",
        ours: true,
        first: "Start OpenMandriva Lx",
        line: "bw.root=nfs:10.0.0.1:/m",
    },
    Case {
        name: "PCLinuxOS",
        menu: (
            "isolinux/isolinux.cfg",
            "default LiveCD\ntimeout 150\nlabel LiveCD\n  kernel vmlinuz\n  append livecd=livecd initrd=initrd.gz root=/dev/rd/3 vmalloc=256M keyb=us splash=silent fstab=rw,auto\n",
        ),
        files: "K/isolinux/vmlinuz I/isolinux/initrd.gz /livecd.sqfs",
        row: "PCLinuxOS",
        ours: true,
        first: "LiveCD",
        line: "bw.layers=livecd.sqfs bw.overlay",
    },
    Case {
        name: "ALT Linux live",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=60\nmenuentry \"LiveCD\" {\n linux /boot/vmlinuz root=bootchain bootchain=fg,altboot automatic=method:cdrom,uuid:x stagename=live ramdisk_size=1 lang=ru_RU quiet\n initrd /boot/initrd.img\n}\n",
        ),
        files: "K/boot/vmlinuz I/boot/initrd.img /live",
        row: "ALT live layout",
        ours: true,
        first: "LiveCD",
        line: "bw.layers=live bw.overlay",
    },
    Case {
        name: "Puppy",
        menu: (
            "isolinux.cfg",
            "default puppy\ntimeout 50\nlabel puppy\n  kernel vmlinuz\n  append initrd=initrd.gz pmedia=cd pfix=fsck\n",
        ),
        files: "K/vmlinuz I/initrd.gz /puppy_fossapup64_9.5.sfs",
        row: "Puppy Linux",
        ours: true,
        first: "puppy",
        line: "bw.layers=puppy_fossapup64_9.5.sfs bw.overlay",
    },
    Case {
        name: "an unknown one",
        menu: (
            "boot/grub/grub.cfg",
            "set timeout=5\nmenuentry \"Start\" {\n linux /k some=word BOOT_IMAGE=/k\n initrd /i\n}\n",
        ),
        files: "K/k I/i /data/root.bin",
        row: "unknown layout",
        ours: false,
        first: "Start",
        line: "some=word",
    },
];

const VOID: &str = "UI vesamenu.c32\nTIMEOUT 100\nLABEL linux\nMENU LABEL Void Linux 6.6\nKERNEL /boot/vmlinuz\nAPPEND initrd=/boot/initrd root=live:CDLABEL=VOID_LIVE ro init=/sbin/init rd.luks=0 rd.live.overlay.overlayfs=1\n";

fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// What `share` makes of a medium in `root`: the menu, and what it said.
fn read(root: &Path, ours: bool) -> Result<(Media, Vec<String>), Error> {
    read_into(root, ours, &mut Files::default())
}

fn read_into(root: &Path, ours: bool, files: &mut Files) -> Result<(Media, Vec<String>), Error> {
    let mut init = std::fs::read("/proc/self/exe").unwrap();
    init.truncate(4096);
    let options = Options { init: ours.then_some(init), ..Options::default() };
    read_by(root, options, files)
}

fn read_by(
    root: &Path,
    options: Options,
    files: &mut Files,
) -> Result<(Media, Vec<String>), Error> {
    let options = Options { media: vec![root.to_owned()], ..options };
    let said = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&said);
    let watch = Watch::new(move |event| told.lock().unwrap().push(event.to_string()));
    let server = Ipv4Addr::new(10, 0, 0, 1);
    let above = Place {
        server,
        port: Some(2049),
        http: Some(SocketAddrV4::new(server, 8080)),
        path: String::new(),
    };
    let sources = Sources::open(&options, false).unwrap();
    let media = media::read(sources, &options, &above, files, &watch);
    let said = said.lock().unwrap().clone();
    Ok((media?, said))
}

fn stand_in(case: &Case, root: &Path) {
    let mut kernel = vec![0; 0x300];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    let mut archive = Archive::new();
    archive.add("init", 0o755, Node::File(b"own".to_vec())).unwrap();
    let initrd = archive.write(0).unwrap();
    for file in case.files.split(' ') {
        match file.split_at(1) {
            ("K", path) => put(root, path, &kernel),
            ("I", path) => put(root, path, &initrd),
            ("M", path) => put(root, path, VOID.as_bytes()),
            ("P", path) => put(root, path, more::PORTEUX.as_bytes()),
            ("R", path) => put(root, path, more::SYSTEM_RESCUE.as_bytes()),
            // A menu that includes the case's.
            ("N", path) => {
                let name = case.menu.0.rsplit('/').next().unwrap();
                put(root, path, format!("default vesamenu.c32\ninclude {name}\n").as_bytes());
            }
            // Images are known by how they begin.
            _ => put(root, file, b"hsqs"),
        }
    }
    put(root, case.menu.0, case.menu.1.as_bytes());
}

#[test]
fn stand_ins_of_distributions() {
    let mut wrong = Vec::new();
    for case in CASES.iter().chain(more::CASES) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        stand_in(case, &root);
        let (media, said) = match read(&root, true) {
            Ok(read) => read,
            Err(e) => {
                wrong.push(format!("{}: {e}", case.name));
                continue;
            }
        };
        let first = &media.menu.entries[0];
        let ours = first.initrd.iter().any(|path| path.contains("/bellwether"));
        let row = said.iter().find_map(|text| text.strip_prefix("m: \"")).unwrap_or_default();
        let named = row.contains(&format!("\", {}, ", case.row));
        let (title, line) = (first.title.as_str(), &first.append);
        if !named || ours != case.ours || title != case.first || !line.contains(case.line) {
            wrong.push(format!("{}: {row} ours {ours} \"{title}\" {line}\n  {said:?}", case.name));
        }
        if ours {
            let plan = cmdline::parse(line, &cmdline::Context::default());
            if !plan.can_work() || !format!("{:?}", plan.root.sources).contains("Nfs(") {
                wrong.push(format!("{}: {line}: {}", case.name, plan.warnings_text()));
            }
        } else if first.append.contains("bw.") {
            wrong.push(format!("{}: words of ours for its own /init: {line}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A 32-bit kernel got our 64-bit `/init`, and panicked.
#[test]
fn a_kernel_for_another_machine_keeps_its_own_init() {
    for (flags, dir, kept, told) in [
        (1, "live", true, ""),
        (
            0,
            "live",
            true,
            "is for 32-bit x86, and our /init, for x86-64, does not run on it; it boots",
        ),
        (0, "antiX", false, ""),
    ] {
        let dir_ = tempfile::tempdir().unwrap();
        let root = dir_.path().join("m");
        let mut kernel = vec![0; 0x300];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        kernel[0x236] = flags;
        let mut archive = Archive::new();
        archive.add("init", 0o755, Node::File(b"own".to_vec())).unwrap();
        put(&root, &format!("{dir}/vmlinuz"), &kernel);
        put(&root, &format!("{dir}/initrd.img"), &archive.write(0).unwrap());
        put(&root, "live/filesystem.squashfs", b"hsqs");
        put(&root, "antiX/linuxfs", b"hsqs");
        let menu =
            format!("label a\nkernel /{dir}/vmlinuz\nappend initrd=/{dir}/initrd.img quiet\n");
        put(&root, "isolinux/isolinux.cfg", menu.as_bytes());
        // What was said is lost with an error, which says it, too.
        let said = match read(&root, true) {
            Ok((media, said)) => {
                let ours = media.menu.entries[0].initrd.iter().any(|p| p.contains("bellwether"));
                assert_eq!((kept, ours), (true, flags == 1), "{dir}");
                said.join("\n")
            }
            Err(e) => {
                assert!(!kept, "{e}");
                continue;
            }
        };
        assert!(said.contains(told) && said.contains("32-bit") != told.is_empty(), "{said}");
    }
}

/// Media of other systems: "no boot menu and no kernel in a usual place; give one with --kernel".
#[test]
fn media_without_linux_are_refused_by_name() {
    for (files, told) in more::REFUSED {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        files.split(' ').for_each(|file| put(&root, file, b"x"));
        let why = read(&root, true).unwrap_err().to_string();
        assert!(why.contains(told), "{files}: {why}");
        assert_eq!(why.contains("--kernel"), told.starts_with("no boot"), "{why}");
    }
}

/// An entry that erases disks started on all machines of a network, since a stick starts it.
#[test]
fn what_erases_without_a_question_waits() {
    let menu = |line: &str| {
        let text =
            format!("set timeout=0\nmenuentry shredos {{\n linux /boot/shredos {line}\n}}\n");
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        put(&root, "boot/grub/grub.cfg", text.as_bytes());
        let mut kernel = vec![0; 0x300];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        put(&root, "boot/shredos", &kernel);
        read(&root, true).unwrap()
    };
    let (media, said) = menu("console=tty3");
    assert_eq!(media.menu.timeout, Some(3));
    let told = "\"shredos\" may change disks, and starts by itself after 3 s on every client";
    assert!(said.iter().any(|text| text.contains(told)), "{said:?}");
    let (media, said) = menu("nwipe_options=\"--method=zero --autonuke\"");
    assert_eq!((media.menu.timeout, media.menu.entries[0].initrd.len()), (None, 0));
    let told = "no entry starts by itself, since \"shredos\" erases disks without a question";
    assert!(said.iter().any(|text| text.contains(told)), "{said:?}");
}

fn one(menu: (&str, &str), files: &str) -> (Media, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("m");
    for file in files.split(' ') {
        put(&root, file.trim_start_matches(['K', 'I']), b"");
    }
    let mut archive = Archive::new();
    archive.add("init", 0o755, Node::File(b"own".to_vec())).unwrap();
    for file in files.split(' ').filter(|file| file.starts_with('I')) {
        put(&root, &file[1..], &archive.write(0).unwrap());
    }
    put(&root, menu.0, menu.1.as_bytes());
    read(&root, true).unwrap()
}

/// An entry that wipes a disk started by itself, since the one before it was left out.
#[test]
fn the_default_is_the_mediums_own_whatever_is_left_out() {
    let entry = |label: &str, more: &str, line: &str| {
        let kernel = if line.is_empty() { "/not-here" } else { "/v" };
        format!("label {label}\n{more}kernel {kernel}\nappend initrd=/i {line}\n")
    };
    let files = "K/v I/i /LiveOS/squashfs.img";
    let live = "root=live:CDLABEL=X";
    let gone = "";
    let read = |menu: &str| {
        one(("isolinux/isolinux.cfg", &format!("UI vesamenu.c32\n{menu}")), files).0.menu
    };
    let three = |marked: &str| {
        let mark = |name: &str| if name == marked { "menu default\n" } else { "" };
        entry("gone", mark("gone"), gone)
            + &entry("live", mark("live"), live)
            + &entry("wipe", mark("wipe"), live)
    };
    let menu = read(&three("live"));
    assert_eq!(
        (menu.entries.len(), menu.entries[0].title.as_str(), menu.timeout),
        (2, "live", Some(3))
    );
    // The default is gone: the first that changes no disk.
    let menu = read(&(entry("wipe", "", live) + &three("gone")));
    assert_eq!((menu.entries[0].title.as_str(), menu.timeout), ("live", Some(3)));
    // It is one that the medium's menu waits with.
    let menu = read(&three("wipe"));
    assert_eq!((menu.entries[0].title.as_str(), menu.timeout), ("wipe", None));
    // It is one that the medium's menu starts by itself.
    let menu = read(&format!("timeout 50\n{}", three("wipe")));
    assert_eq!((menu.entries[0].title.as_str(), menu.timeout), ("wipe", Some(5)));
    // Nothing but such an entry is left.
    let menu = read(&format!(
        "timeout 50\n{}{}",
        entry("gone", "menu default\n", gone),
        entry("wipe", "", live)
    ));
    assert_eq!((menu.entries[0].title.as_str(), menu.timeout), ("wipe", None));
}

/// One that cannot be read ended `share`, though the medium's own `/init` needs nothing of us.
#[test]
fn an_initramfs_that_is_not_read_keeps_its_own_init() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("m");
    for (path, bytes) in [
        ("live/vmlinuz", &b"k"[..]),
        ("live/initrd.img", &b"\x89LZO\0\r\n\x1a\nand damage"[..]),
        ("live/filesystem.squashfs", &b"s"[..]),
    ] {
        put(&root, path, bytes);
    }
    let (media, said) = read(&root, true).unwrap();
    let [entry] = media.menu.entries.as_slice() else { panic!("{media:?}") };
    assert_eq!(entry.initrd, ["/boot/m/0/initrd0"]);
    assert!(entry.append.starts_with("boot=live netboot=nfs "), "{}", entry.append);
    for told in [
        "/live/initrd.img",
        "the lzo data at byte 0 does not unpack",
        "it boots without our /init if it can",
    ] {
        assert!(said.iter().any(|text| text.contains(told)), "{told}: {said:?}");
    }
}

/// A given image of ours asked a portmapper, which a `share` without root does not have.
#[test]
fn an_image_of_ours_asks_no_portmapper() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("m");
    put(&root, "live/filesystem.squashfs", b"s");
    let path = |name: &str| dir.path().join(name);
    put(dir.path(), "vmlinuz", b"k");
    for (name, init, port) in [
        ("foreign", b"#!/bin/sh".to_vec(), ",port=2049"),
        ("ours", common::init(), ",port=2049,mountport=2049"),
    ] {
        let mut archive = Archive::new();
        archive.add("init", 0o755, Node::File(init)).unwrap();
        put(dir.path(), name, &archive.write(0).unwrap());
        let (kernel, initrd) = (Some(path("vmlinuz")), Some(path(name)));
        let options = Options { kernel, initrd, ..Options::default() };
        let (media, _) = read_by(&root, options, &mut Files::default()).unwrap();
        let [entry] = media.menu.entries.as_slice() else { panic!("{media:?}") };
        let word = entry.append.split(' ').find(|word| word.starts_with("nfsopts=")).unwrap();
        assert_eq!(word, format!("nfsopts=vers=3,tcp,nolock{port}"), "{name}");
    }
}

/// An entry whose files a cut image lacks was offered, and no machine came up.
#[test]
fn what_a_cut_image_lacks_is_not_offered() {
    let dir = tempfile::tempdir().unwrap();
    let (root, iso) = (dir.path().join("tree"), dir.path().join("m.iso"));
    let mut archive = Archive::new();
    archive.add("init", 0o755, Node::File(b"own".to_vec())).unwrap();
    let initrd = archive.write(0).unwrap();
    let menu = "label early\nkernel /k\nappend initrd=/i boot=live\n\
                label late\nkernel /late/k\nappend initrd=/i boot=live\n";
    for (path, bytes) in [
        ("isolinux/isolinux.cfg", menu.as_bytes()),
        ("k", b"kernel"),
        ("i", &initrd),
        ("live/filesystem.squashfs", b"s"),
        ("late/k", &vec![7; 4 << 20]),
    ] {
        put(&root, path, bytes);
    }
    let mut xorriso = std::process::Command::new("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-r", "--sort-weight", "-1", "/late/k", "-o"]);
    let Ok(made) = xorriso.arg(&iso).arg(&root).output() else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let titles = |iso: &Path| -> Vec<String> {
        let entries = read(iso, true).unwrap().0.menu.entries;
        entries.into_iter().map(|entry| entry.title).collect()
    };
    assert_eq!(titles(&iso), ["early", "late"]);
    let whole = std::fs::metadata(&iso).unwrap().len();
    std::fs::File::options().write(true).open(&iso).unwrap().set_len(whole - (2 << 20)).unwrap();
    assert_eq!(titles(&iso), ["early"]);
    let said = read(&iso, true).unwrap().1;
    let told = "entry \"late\" is left out: /late/k is behind the end of the image";
    assert!(said.iter().any(|text| text.contains(told)), "{said:?}");
}

/// A medium whose kernel loads none of the modules in its initramfs was announced as ready.
#[test]
fn a_kernel_with_the_modules_of_another_is_told() {
    for (own, told) in [("6.1.0-57-amd64", false), ("6.1.0-58-amd64", true)] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x120_u16.to_le_bytes());
        kernel[0x320..0x320 + own.len()].copy_from_slice(own.as_bytes());
        let mut archive = Archive::new();
        archive.add("init", 0o755, Node::File(b"own".to_vec())).unwrap();
        let module = common::module(62, &["name=a", "vermagic=6.1.0-57-amd64 SMP"]);
        let path = "lib/modules/6.1.0-57-amd64/kernel/a.ko";
        archive.add(path, 0o644, Node::File(module)).unwrap();
        put(&root, "live/vmlinuz", &kernel);
        put(&root, "live/initrd.img", &archive.write(0).unwrap());
        put(&root, "live/filesystem.squashfs", b"s");
        let said = read(&root, true).unwrap().1.join("\n");
        let words = "the kernel is 6.1.0-58-amd64, and the modules in its initramfs are those of \
                     6.1.0-57-amd64: it loads none of them";
        assert_eq!(said.contains(words), told, "{said}");
        assert!(said.contains("kernel 6.1.0-57-amd64"), "{said}");
    }
}

/// Microcode, and an initramfs with modules, settings and firmware, without one of the modules.
fn initramfs(lacks: &str) -> Vec<u8> {
    let module = |name: &str, more: &[&str]| {
        let name = format!("name={name}");
        common::module(62, &[&[name.as_str()], more].concat())
    };
    let base = "usr/lib/modules/6.1.0-57-amd64/kernel";
    let mut first = Archive::new();
    let microcode = "kernel/x86/microcode/GenuineIntel.bin";
    first.add(microcode, 0o644, Node::File(b"microcode".to_vec())).unwrap();
    let mut archive = Archive::new();
    for (path, bytes) in [
        ("init", b"own".to_vec()),
        ("bin/busybox", vec![1; 100]),
        ("conf/conf.d/own.conf", b"BOOT=live\n".to_vec()),
        ("usr/lib/firmware/card.bin.xz", b"firmware".to_vec()),
        ("usr/lib/firmware/screen.bin", b"not asked for".to_vec()),
    ] {
        archive.add(path, 0o644, Node::File(bytes)).unwrap();
    }
    let alias = "alias=pci:v00008086d*sv*sd*bc*sc*i*";
    for (path, bytes) in [
        ("drivers/block/loop.ko", module("loop", &[])),
        ("fs/squashfs/squashfs.ko", module("squashfs", &[])),
        ("fs/overlayfs/overlay.ko", module("overlay", &[])),
        ("fs/nfs/nfsv3.ko", module("nfsv3", &[])),
        ("drivers/net/ethernet/card.ko", module("card", &["firmware=card.bin", alias])),
        ("drivers/ata/ahci.ko", module("ahci", &[])),
        ("drivers/gpu/screen.ko", module("screen", &["firmware=screen.bin"])),
    ] {
        if !path.ends_with(&format!("{lacks}.ko")) {
            archive.add(&format!("{base}/{path}"), 0o644, Node::File(bytes)).unwrap();
        }
    }
    [first.write(0).unwrap(), archive.write(0).unwrap()].concat()
}

/// An initramfs of 40 to 80 MB was loaded by every client for a few megabytes of modules in it.
#[test]
fn modules_microcode_and_settings_take_the_place_of_an_initramfs() {
    use cpio_builder::initrd::{Initrd, Limits};
    for (line, lacks, alone) in [
        ("boot=live", "none", true),
        ("boot=live", "nfsv3", false),
        ("boot=live persistence", "none", false),
        ("boot=live break=mount", "none", false),
        ("root=live:CDLABEL=X", "none", true),
        ("root=live:CDLABEL=X rd.driver.pre=ahci", "none", false),
        ("boot=casper", "none", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        let menu = format!("label x\nkernel /live/vmlinuz\nappend initrd=/live/i {line}\n");
        put(&root, "isolinux/isolinux.cfg", menu.as_bytes());
        put(&root, "live/vmlinuz", b"k");
        put(&root, "live/i", &initramfs(lacks));
        put(&root, "LiveOS/squashfs.img", b"s");
        put(&root, "live/filesystem.squashfs", b"s");
        let mut files = Files::default();
        let (media, said) = read_into(&root, true, &mut files).unwrap();
        let [entry] = media.menu.entries.as_slice() else { panic!("{said:?}") };
        let ours = "/boot/m/bellwether0.img";
        if !alone {
            assert_eq!(entry.initrd, ["/boot/m/0/initrd0", ours], "{line} {lacks}: {said:?}");
            continue;
        }
        assert_eq!(entry.initrd, [ours], "{line}: {said:?}");
        assert!(files.find("/boot/m/0/initrd0").is_none(), "no client asks for it");
        let file = files.find(ours).unwrap();
        let share::files::Content::Memory(bytes) = &file.content else { panic!() };
        assert!(bytes.starts_with(b"070701"), "the kernel does not see microcode that is packed");
        let whole = Initrd::open(bytes, Limits::default()).unwrap();
        let tree = whole.tree();
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        let is_file = |path: &&&str| tree[**path].is_file();
        let mut names: Vec<String> = tree.keys().filter(is_file).map(|path| name(path)).collect();
        names.sort();
        let expected = [
            "GenuineIntel.bin",
            "card.bin.xz",
            "card.ko",
            "init",
            "loop.ko",
            "modules.idx",
            "nfsv3.ko",
            "overlay.ko",
            "own.conf",
            "squashfs.ko",
        ];
        assert_eq!(names, expected);
    }
}

/// An initramfs was read, and its archive made, once for entries that want ours alone and once more
/// for those that want it behind.
#[test]
fn entries_with_one_initramfs_share_its_archives() {
    let medium = |initramfs: Vec<u8>| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("m");
        let entry = |more: &str| {
            format!("label x\nkernel /live/vmlinuz\nappend initrd=/live/i boot=live {more}\n")
        };
        let menu = [entry(""), entry("persistence"), entry("toram"), entry("break=mount")].concat();
        put(&root, "isolinux/isolinux.cfg", menu.as_bytes());
        put(&root, "live/vmlinuz", b"k");
        put(&root, "live/i", &initramfs);
        put(&root, "live/filesystem.squashfs", b"s");
        let mut files = Files::default();
        let (media, said) = read_into(&root, true, &mut files).unwrap();
        let made = (0..9).filter(|n| files.find(&format!("/boot/m/bellwether{n}.img")).is_some());
        let last = |entry: &cpio_builder::menu::Entry| entry.initrd.last().unwrap().clone();
        let lengths = media.menu.entries.iter().map(|entry| entry.initrd.len()).collect::<Vec<_>>();
        (lengths, media.menu.entries.iter().map(last).collect::<Vec<_>>(), made.count(), said)
    };
    let (alone, behind) = ("/boot/m/bellwether0.img", "/boot/m/bellwether1.img");
    let (lengths, ours, made, said) = medium(initramfs("none"));
    assert_eq!((lengths, made), (vec![1, 2, 1, 2], 2), "{said:?}");
    assert_eq!(ours, [alone, behind, alone, behind]);
    // Ours cannot be alone: one archive for all.
    let (lengths, ours, made, said) = medium(initramfs("nfsv3"));
    assert_eq!((lengths, made), (vec![2; 4], 1), "{said:?}");
    assert_eq!(ours, [alone; 4]);
    // A module that only the one in its place has to read is damaged: both were lost.
    let base = "usr/lib/modules/6.1.0-57-amd64";
    let mut archive = Archive::new();
    let dep = "loop squashfs overlay nfsv3 card ahci screen".split(' ');
    let paths = ["drivers/block", "fs/squashfs", "fs/overlayfs", "fs/nfs"].into_iter();
    let paths = paths.chain(["drivers/net/ethernet", "drivers/ata", "drivers/gpu"]);
    let dep: String =
        paths.zip(dep).map(|(dir, name)| format!("kernel/{dir}/{name}.ko:\n")).collect();
    for (path, text) in [
        ("modules.dep", dep.as_str()),
        ("modules.alias", ""),
        ("modules.softdep", ""),
        ("kernel/fs/nfs/nfsv3.ko", "damaged"),
    ] {
        archive.add(&format!("{base}/{path}"), 0o644, Node::File(text.into())).unwrap();
    }
    let damaged = [initramfs("none"), archive.write(0).unwrap()].concat();
    let (lengths, ours, made, said) = medium(damaged);
    assert_eq!((lengths, made), (vec![2; 4], 1), "{said:?}");
    assert_eq!(ours, [alone; 4]);
    let told = "no archive takes the place of the initramfs: ";
    assert!(said.iter().any(|text| text.contains(told) && text.contains("nfsv3")), "{said:?}");
}
