//! Words of no dialect: the kernel, boot loaders and systemd read them.

/// Words of the kernel's own, of boot loaders and of systemd, that are common on boot
/// lines. The list only keeps them from being reported as unknown and from being
/// handed to init as arguments.
pub(crate) const KERNEL_WORDS: &str = "BOOT_IMAGE initrd rdinit console earlycon earlyprintk \
    loglevel ignore_loglevel log_buf_len printk.* vga video nomodeset fbcon vt.* consoleblank splash nosplash \
    plymouth.* rhgb acpi acpi_* pci pcie_* noapic nolapic nosmp maxcpus nr_cpus isolcpus \
    mem memmap hugepages hugepagesz default_hugepagesz transparent_hugepage crashkernel \
    mitigations spectre_v2 pti nopti iommu intel_iommu amd_iommu intel_pstate amd_pstate \
    clocksource tsc hpet notsc lapic x2apic nox2apic nokaslr kaslr selinux enforcing security lsm \
    apparmor audit audit_backlog_limit ima_* evm cgroup_* cgroup.* systemd.* udev.* rd.udev.* \
    net.ifnames net.ifname_policy biosdevname ramdisk_size ramdisk_blocksize load_ramdisk \
    prompt_ramdisk noinitrd edd libata.* scsi_mod.* nvme_core.* usbcore.* usb-storage.* \
    reboot nowatchdog watchdog nmi_watchdog softlockup_panic oops kgdboc trace_event ftrace \
    sysrq_always_enabled slub_debug init_on_alloc init_on_free random.trust_cpu random.trust_bootloader \
    preempt threadirqs nohz nohz_full rcu* skew_tick idle processor.max_cstate intel_idle.* \
    mce nomce noefi efi efi_* add_efi_memmap dis_ucode_ldr swiotlb cma zswap.* zram.* \
    root_trim fips raid md md-mod.* dm-mod.* dm_mod.* device_mapper swapaccount lang locale LANG TERM HOME PATH \
    SYSUUID CPU SYSVENDOR SYSPRODUCT SYSVERSION SYSSERIAL SYSSKU SYSFAMILY MBVENDOR MBPRODUCT \
    MBVERSION MBSERIAL MBASSET BIOSVENDOR BIOSVERSION BOOT_OS inst.* ds cloud-config-url \
    ipv6.disable nfsrootdebug ip6 hostname domain autofs timezone kernel.* sysctl.* vconsole.* \
    earlycon printk no_timer_check noreplace-smp tsx irqpoll pnpbios raid nompx kvm* \
    vsyscall slab_nomerge slub_debug iomem page_poison lockdown randomize_kstack_offset debugfs \
    carrier_timeout rd.luks.* luks.* rd.lvm* rd.md* rd.dm* rd.plymouth";
