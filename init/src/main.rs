//! The entry of `/init`; everything it does is in the library.

#![no_std]
#![no_main]

rt::main!(start);

fn start(process: rt::Process) -> ! {
    let _ = process;
    panic!("end")
}
