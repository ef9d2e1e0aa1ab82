//! What `net` covers of the kernel that people run, and what it costs.

use std::path::Path;
use std::time::Instant;

use qemu_tests::assets::media::run;
use qemu_tests::assets::{Flavour, released};
use qemu_tests::{Error, Result, scenario};

use super::{Shop, tell};

/// Where drivers of wired network cards and of disks are, below `kernel/`.
const CARDS: [&str; 8] = [
    "drivers/net/ethernet/",
    "drivers/net/usb/",
    "drivers/net/fddi/",
    "drivers/net/hippi/",
    "drivers/net/fjes/",
    "drivers/net/hyperv/",
    "drivers/net/vmxnet3/",
    "drivers/staging/qlge/",
];
const DISKS: [&str; 14] = [
    "drivers/ata/",
    "drivers/block/",
    "drivers/cdrom/",
    "drivers/firewire/",
    "drivers/memstick/",
    "drivers/message/",
    "drivers/misc/cardreader/",
    "drivers/mmc/",
    "drivers/nvdimm/",
    "drivers/nvme/host/",
    "drivers/scsi/",
    "drivers/staging/rts5208/",
    "drivers/ufs/",
    "drivers/usb/storage/",
];

/// What is there and not in the image, and why. A driver that a later kernel brings
/// is in neither list, and fails the test until a maintainer has put it into one.
const LEFT_OUT: [(&str, &str); 5] = [
    (
        "storage that is a network of its own (Fibre Channel, iSCSI offload); --class storage adds it",
        "be2iscsi bfa bnx2fc bnx2i csiostor cxgb3i cxgb4i fcoe fnic libcxgbi libfc libfcoe lpfc \
         nvme_fc nvme_rdma qedf qedi qla2xxx qla4xxx snic",
    ),
    ("modems", "cdc_mbim cdc_phonet hso huawei_cdc_ncm qmi_wwan sierra_net"),
    ("the other end: what serves disks to others", "tcm_qla2xxx xen_blkback xen_scsiback"),
    ("no root is found there", "ch drbd null_blk rbd scsi_debug ses st ublk_drv zram"),
    ("no drivers of disks", "firewire_net mptctl mptlan nosy"),
];

/// Names of the modules below some places of a kernel's tree, sorted.
fn modules(tree: &Path, places: &[&str]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for place in places {
        let dir = tree.join("kernel").join(place);
        if !dir.exists() {
            continue;
        }
        let found = run(&["find", &dir.to_string_lossy(), "-name", "*.ko*"])?;
        names.extend(found.lines().filter_map(|path| {
            let name = path.rsplit('/').next()?.split(".ko").next()?;
            Some(name.replace('-', "_"))
        }));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The modules in an image, by the command's own list of its files.
fn listed(shop: &Shop, image: &str) -> Result<Vec<String>> {
    let list = shop.sh(&format!("bellwether build --list {image}"))?;
    let names = list.lines().filter_map(|line| line.strip_suffix(".ko")?.rsplit('/').next());
    Ok(names.map(|name| name.replace('-', "_")).collect())
}

#[test]
fn net_has_every_driver_of_the_stock_kernel() {
    scenario("builder-coverage", |lab| {
        let shop = Shop::open(lab)?;
        let kernel = lab.assets().kernel(Flavour::Stock)?;
        // The choice is looked at, not the packing, which takes its time.
        let tree = kernel.modules.display();
        shop.sh(&format!(
            "bellwether build --modules '{tree}' --profile net --compress none -o net.img"
        ))?;
        let inside = listed(&shop, "net.img")?;
        let (cards, disks) = (modules(&kernel.modules, &CARDS)?, modules(&kernel.modules, &DISKS)?);
        assert!(cards.len() > 100 && disks.len() > 100, "{cards:?} {disks:?}");
        let decided: Vec<&str> = LEFT_OUT.iter().flat_map(|(_, names)| names.split(' ')).collect();
        let absent = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| !inside.contains(name)).cloned().collect()
        };
        let (no_cards, no_disks) = (absent(&cards), absent(&disks));
        tell(format_args!(
            "net, {}: {} of {} modules for network cards, {} of {} for disks; left out:",
            kernel.version,
            cards.len() - no_cards.len(),
            cards.len(),
            disks.len() - no_disks.len(),
            disks.len()
        ));
        for (why, names) in LEFT_OUT {
            tell(format_args!("  {why}: {names}"));
        }
        let forgotten: Vec<&String> = no_cards
            .iter()
            .chain(&no_disks)
            .filter(|name| !decided.contains(&name.as_str()))
            .collect();
        assert!(
            forgotten.is_empty(),
            "in the kernel, not in net, and in no list of exceptions: {forgotten:?}"
        );
        let there: Vec<&&str> =
            decided.iter().filter(|name| inside.iter().any(|i| i == **name)).collect();
        assert!(there.is_empty(), "said to be left out, and there: {there:?}");

        // And those of a storage network come with the class.
        shop.sh(&format!(
            "bellwether build --modules '{tree}' --profile net --class storage --compress none -o san.img"
        ))?;
        let inside = listed(&shop, "san.img")?;
        for name in ["lpfc", "qla2xxx", "fnic", "be2iscsi"] {
            assert!(inside.iter().any(|inside| inside == name), "{name}");
        }
        Ok(())
    });
}

/// What the issue asks of `virt`, by the command as it is released.
#[test]
#[ignore = "builds the release and measures it: cargo xtask test --sweep"]
fn sweep_virt_is_small_and_quick() {
    scenario("builder-quick", |lab| {
        let command = released()?;
        let kernel = lab.assets().kernel(Flavour::Cloud)?;
        let image = lab.scratch("image")?.join("virt.img");
        let (command, image) = (command.to_string_lossy(), image.to_string_lossy());
        let modules = kernel.modules.to_string_lossy();
        let mut best = f32::INFINITY;
        for _ in 0..3 {
            let start = Instant::now();
            run(&[&command, "build", "--modules", &modules, "--profile", "virt", "-o", &image])?;
            best = best.min(start.elapsed().as_secs_f32());
        }
        let size = std::fs::metadata(&*image).map_err(Error::io("look at the image"))?.len();
        tell(format_args!("virt, {}: {size} bytes in {best:.2} s", kernel.version));
        assert!(size <= 2_000_000, "{size} bytes");
        assert!(best < 2.0, "{best} s");
        Ok(())
    });
}
