//! The heap: talc over anonymous memory, grown by whole chunks and never given back.

use core::alloc::Layout;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use talc::{TalcLock, base::Talc, base::binning::Binning, source::Source};

/// Smallest growth of the heap: early init needs a few hundred KiB in total, and every mmap
/// costs time.
const CHUNK: usize = 256 * 1024;

#[global_allocator]
static HEAP: TalcLock<spin::Mutex<()>, Mmap> = TalcLock::new(Mmap);

#[derive(Debug)]
struct Mmap;

// SAFETY: `acquire` touches only the `talc` it is given and allocates nothing itself.
unsafe impl Source for Mmap {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the request, its alignment and talc's own bookkeeping.
        let want = layout.size().checked_add(layout.align()).and_then(|n| n.checked_add(4096));
        let size = want.ok_or(())?.max(CHUNK).checked_next_multiple_of(4096).ok_or(())?;
        // SAFETY: a fresh anonymous mapping aliases nothing, and is handed to
        // talc alone, for the life of the process.
        unsafe {
            let base = mmap_anonymous(
                core::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
            .map_err(|_| ())?;
            talc.claim(base.cast(), size).map(|_| ()).ok_or(())
        }
    }
}
