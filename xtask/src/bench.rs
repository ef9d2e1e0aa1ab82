//! `cargo xtask bench`: numbers to hold against other projects.

use argh::FromArgs;
use qemu_tests::Result;
use qemu_tests::bench::{Contender, Medium, header, measure};

/// Measure Bellwether against its peers.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "bench")]
pub struct Bench {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum What {
    Boot(Boot),
}

/// Boot the same kernel and image with each initramfs, in counted time.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "boot")]
struct Boot {
    /// only this initramfs: live-boot, dracut or bellwether
    #[argh(option, from_str_fn(contender))]
    only: Option<Contender>,

    /// only this medium: iso or nfs
    #[argh(option, from_str_fn(medium))]
    medium: Option<Medium>,
}

fn contender(word: &str) -> Result<Contender, String> {
    match word {
        "live-boot" => Ok(Contender::LiveBoot),
        "dracut" => Ok(Contender::Dracut),
        "bellwether" => Ok(Contender::Bellwether),
        _ => Err(format!("{word}: not one of live-boot, dracut, bellwether")),
    }
}

fn medium(word: &str) -> Result<Medium, String> {
    match word {
        "iso" => Ok(Medium::Iso),
        "nfs" => Ok(Medium::Nfs),
        _ => Err(format!("{word}: not one of iso, nfs")),
    }
}

impl Bench {
    /// Runs the bench and prints the table.
    pub fn run(self) -> Result<()> {
        let What::Boot(boot) = self.what;
        let all = [Contender::LiveBoot, Contender::Dracut, Contender::Bellwether];
        for medium in [Medium::Iso, Medium::Nfs] {
            if boot.medium.is_some_and(|only| only != medium) {
                continue;
            }
            println!("{}", title(medium));
            println!("{}", header());
            for contender in all {
                if boot.only.is_none_or(|only| only == contender) {
                    println!("{}", measure(contender, medium)?);
                }
            }
            println!();
        }
        Ok(())
    }
}

fn title(medium: Medium) -> &'static str {
    match medium {
        Medium::Iso => "Local ISO on virtio-scsi, no network card; counted time, repeatable:",
        Medium::Nfs => {
            "NFS over virtio-net; the server answers in real time, so runs differ a bit:"
        }
    }
}
