//! `cargo xtask bench`: numbers to hold against other projects.

use argh::FromArgs;
use qemu_tests::Result;
use qemu_tests::bench::kept::{self, Kept};
use qemu_tests::bench::p2v;
use qemu_tests::bench::profile::{Counted, Share, count};
use qemu_tests::bench::{BOARDS, Contender, Medium, Row, Runs, measure, one, share};
use qemu_tests::release::RELEASES;

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
    P2v(P2v),
    Share(Room),
}

/// Send a half-empty disk to a conversion server, beside Debian's virt-p2v.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "p2v")]
struct P2v {}

/// Boot the same kernel and image with each initramfs; count instructions, time and bytes.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "boot")]
struct Boot {
    /// only this initramfs: live-boot, dracut or bellwether
    #[argh(option, from_str_fn(contender))]
    only: Option<Contender>,

    /// only this medium: iso or nfs
    #[argh(option, from_str_fn(medium))]
    medium: Option<Medium>,

    /// only this board: q35, or pc, which has an IDE controller
    #[argh(option, from_str_fn(board))]
    board: Option<&'static str>,

    /// only the kernel of this release: bookworm, trixie or forky
    #[argh(option, from_str_fn(release))]
    kernel: Option<&'static str>,

    /// boots of each initramfs by the guest's clock (7)
    #[argh(option, default = "7")]
    runs: usize,

    /// boots of each initramfs with instructions counted (2)
    #[argh(option, default = "2")]
    counted: usize,

    /// keep the results in qemu-tests/boot.tsv, for `cargo xtask docs`
    #[argh(switch)]
    keep: bool,

    /// instead of the table: where Bellwether's instructions go, from the ISO
    #[argh(switch, long = "where")]
    whereto: bool,
}

/// Serve a room full of machines at once by HTTP and NFS, beside nginx and Ganesha.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "share")]
struct Room {
    /// how many machines (50)
    #[argh(option, default = "50")]
    clients: usize,

    /// megabytes, of 1000000 bytes, that each reads of an image (200)
    #[argh(option, default = "200")]
    size: u64,

    /// runs a server (3); the median counts
    #[argh(option, default = "3")]
    runs: usize,

    /// instead: one machine from switch-on to login, beside live-boot's own initramfs
    #[argh(switch)]
    one: bool,
}

impl Room {
    fn run(self) -> Result<()> {
        let Self { clients, size, runs, one: alone } = self;
        if alone {
            println!("{}", one::measure(runs)?);
            return Ok(());
        }
        println!("{clients} machines, each a kernel, an initramfs and {size} MB of an image:");
        println!("{}", share::measure(&share::Room { clients, image: size * 1_000_000, runs })?);
        Ok(())
    }
}

fn contender(word: &str) -> Result<Contender, String> {
    one_of(word, Contender::ALL, Contender::word)
}

fn medium(word: &str) -> Result<Medium, String> {
    one_of(word, Medium::ALL, Medium::word)
}

fn board(word: &str) -> Result<&'static str, String> {
    one_of(word, BOARDS, |board| board)
}

fn release(word: &str) -> Result<&'static str, String> {
    one_of(word, RELEASES, |release| release)
}

fn one_of<T: Copy, const N: usize>(
    word: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    let found = all.into_iter().find(|one| name(*one) == word);
    found.ok_or_else(|| format!("{word}: not one of {}", all.map(name).join(", ")))
}

impl Bench {
    /// Runs the bench and prints the table.
    pub fn run(self) -> Result<()> {
        let boot = match self.what {
            What::Boot(boot) => boot,
            What::Clone(clone) => return clone.run(),
            What::P2v(P2v {}) => {
                println!("{}", p2v::measure()?);
                return Ok(());
            }
            What::Share(room) => return room.run(),
        };
        if boot.whereto {
            show(&count(boot.kernel.unwrap_or(RELEASES[0]))?);
            return Ok(());
        }
        let contenders: Vec<Contender> =
            Contender::ALL.into_iter().filter(|one| boot.only.is_none_or(|o| o == *one)).collect();
        let runs = Runs { clock: boot.runs, counted: boot.counted };
        for row in boot.rows() {
            println!("{} {} {}:", row.release, row.board, row.medium.word());
            let measured = measure(row, &contenders, runs)?;
            let results: Vec<Kept> = measured.iter().map(|one| Kept::of(row, one)).collect();
            println!("{}", kept::table(&results));
            if boot.keep {
                kept::keep(&results)?;
            }
        }
        Ok(())
    }
}

impl Boot {
    /// The rows that are asked for, by kernel, board and medium.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for release in RELEASES.into_iter().filter(|r| self.kernel.is_none_or(|k| k == *r)) {
            for board in BOARDS.into_iter().filter(|b| self.board.is_none_or(|o| o == *b)) {
                let media = Medium::ALL.into_iter();
                let media = media.filter(|m| self.medium.is_none_or(|only| only == *m));
                rows.extend(media.map(|medium| Row { release, board, medium }));
            }
        }
        rows
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
