//! The entry of `/init`; everything it does is in the library.

#![no_std]
#![no_main]

rt::main!(start);
rt::note!(init::boot::HAS.note());

/// A fault of the program is told like a panic; of the small /init, the kernel tells it.
#[cfg(feature = "full")]
struct Last;

#[cfg(feature = "full")]
impl sys::fault::Last for Last {
    fn fault(fault: &sys::fault::Fault) -> ! {
        rt::die(format_args!("{fault}"), fault.signal)
    }
}

fn start(process: rt::Process) -> ! {
    // Without it the kernel tells of the fault, in fewer words.
    #[cfg(feature = "full")]
    let _ = sys::fault::catch::<Last>();
    let name = process.args().next().map(core::ffi::CStr::to_bytes).unwrap_or_default();
    if name.ends_with(b"/modprobe") {
        sys::process::exit(init::modprobe::run(process.args().skip(1)));
    }
    #[cfg(feature = "full")]
    if name == init::shutdown::NAME.to_bytes() {
        init::shutdown::run(process.args().skip(1));
    }
    #[cfg(feature = "full")]
    if name == init::watch::NAME.to_bytes() {
        sys::process::exit(init::watch::run(process.args().skip(1)));
    }
    #[cfg(feature = "full")]
    if name == init::keeper::NAME.to_bytes() {
        sys::process::exit(init::keeper::run(process.args().skip(1)));
    }
    #[cfg(feature = "p2v")]
    if let Some(status) = init::p2v::helper(name, process.args().skip(1)) {
        sys::process::exit(status);
    }
    init::boot::run(process)
}
