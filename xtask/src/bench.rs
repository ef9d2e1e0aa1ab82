//! `cargo xtask bench`: numbers to hold against other projects.

use argh::FromArgs;
use qemu_tests::Result;
use qemu_tests::bench::profile::{Counted, Share, count};
use qemu_tests::bench::{Contender, Medium, header, measure, share};

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
    Clone(crate::bench_clone::BenchClone),
    Share(Room),
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

    /// boots a row (5); the fastest counts
    #[argh(option, default = "5")]
    runs: usize,

    /// instead of the table: where Bellwether's instructions go, from the ISO
    #[argh(switch, long = "where")]
    whereto: bool,
}

/// Serve a room full of machines at once by HTTP and NFS, beside nginx and Ganesha.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "share")]
struct Room {
    /// how many machines (30)
    #[argh(option, default = "30")]
    clients: usize,

    /// megabytes, of 1000000 bytes, that each reads of an image (200)
    #[argh(option, default = "200")]
    size: u64,

    /// runs a server (3); the fastest counts
    #[argh(option, default = "3")]
    runs: usize,
}

impl Room {
    fn run(self) -> Result<()> {
        let Self { clients, size, runs } = self;
        println!("{clients} machines, each a kernel, an initramfs and {size} MB of an image:");
        println!("{}", share::measure(&share::Room { clients, image: size * 1_000_000, runs })?);
        Ok(())
    }
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
        let boot = match self.what {
            What::Boot(boot) => boot,
            What::Clone(clone) => return clone.run(),
            What::Share(room) => return room.run(),
        };
        if boot.whereto {
            show(&count()?);
            return Ok(());
        }
        let all = [Contender::LiveBoot, Contender::Dracut, Contender::Bellwether];
        for medium in [Medium::Iso, Medium::Nfs] {
            if boot.medium.is_some_and(|only| only != medium) {
                continue;
            }
            println!("{}", title(medium));
            println!("{}", header());
            for contender in all {
                if boot.only.is_none_or(|only| only == contender) {
                    println!("{}", measure(contender, medium, boot.runs)?);
                }
            }
            println!();
        }
        Ok(())
    }
}

fn title(medium: Medium) -> &'static str {
    match medium {
        Medium::Iso => "Local ISO on virtio-scsi, no network card; counted time, waits included:",
        Medium::Nfs => "NFS over virtio-net; counted time, but the server's answers in real time:",
    }
}

/// Prints a counted boot.
fn show(counted: &Counted) {
    let Counted { instructions, clock, kernel, user, functions } = counted;
    let ours: u64 = user.iter().map(|share| share.count).sum();
    println!("From \"Run /init\" to the live system's first instruction, local ISO:");
    let millions = |count: u64| count as f64 / 1e6;
    println!(
        "{:>9.1} M instructions in {:.3} s of counted time",
        millions(*instructions),
        clock.as_secs_f64()
    );
    let rows = |title: &str, shares: &[Share], most: usize| {
        println!("\n{title}");
        for share in shares.iter().take(most) {
            let percent = share.count as f64 * 100.0 / (*instructions).max(1) as f64;
            println!("{:>9.2} M {percent:>5.1} %  {}", millions(share.count), share.name);
        }
    };
    rows(&format!("/init itself: {:.2} M", millions(ours)), user, usize::MAX);
    rows(&format!("the kernel for it: {:.2} M", millions(instructions - ours)), kernel, usize::MAX);
    rows("its functions that take most", functions, 25);
}
