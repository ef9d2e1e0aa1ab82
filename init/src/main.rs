//! The entry of `/init`; everything it does is in the library.

#![no_std]
#![no_main]

rt::main!(start);
rt::note!(init::boot::HAS.note());

fn start(process: rt::Process) -> ! {
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
    init::boot::run(process)
}
