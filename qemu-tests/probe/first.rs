//! The lab's first program of a live system: it stamps the moment at which an
//! initramfs hands over, then becomes the real init.
//!
//! A line in /dev/kmsg carries the kernel's own time, so all initramfs are timed
//! by the same clock: from the kernel's "Run /init" to this line. MemAvailable
//! shows what the initramfs left in memory. Called by a name that ends in "off"
//! it powers the machine off instead of going on; by one that ends in
//! "symbols-off" it first writes the kernel's symbols to QEMU's debug console.
//!
//! Freestanding, 2 KB of code: loading a libc would be part of the measurement.
//! Linked to where no other program has code, so that a profiler can tell.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

const READ: usize = 0;
const WRITE: usize = 1;
const OPEN: usize = 2;
const EXECVE: usize = 59;
const REBOOT: usize = 169;
const IOPL: usize = 172;

/// The I/O port of `-device isa-debugcon`.
const DEBUG_CONSOLE: u16 = 0xe9;

#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!("mov rdi, rsp", "and rsp, -16", "call {main}", "ud2", main = sym main)
}

/// One system call; `args` beyond what the call takes are ignored by the kernel.
fn syscall(number: usize, args: [usize; 4]) -> isize {
    let result;
    // SAFETY: every caller below passes pointers to live, NUL-terminated or
    // length-bounded memory.
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
             in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
             lateout("rcx") _, lateout("r11") _);
    }
    result
}

extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel's process entry layout: argc, argv…, NULL, envp…, NULL.
    let (argv, envp, name) = unsafe {
        let argc = *stack;
        let argv = stack.add(1);
        (argv, argv.add(argc + 1), *argv as *const u8)
    };

    let mut line = Line { bytes: [0; 160], len: 0 };
    line.put(b"<4>bellwether-lab: handed over, MemAvailable ");
    let mut meminfo = [0u8; 2048];
    let fd = syscall(OPEN, [c"/proc/meminfo".as_ptr() as usize, 0, 0, 0]);
    let got = syscall(READ, [fd as usize, meminfo.as_mut_ptr() as usize, meminfo.len(), 0]);
    line.put(field(&meminfo[..got.max(0) as usize], b"MemAvailable:"));
    line.put(b" kB\n");

    let kmsg = syscall(OPEN, [c"/dev/kmsg".as_ptr() as usize, 1, 0, 0]);
    syscall(WRITE, [kmsg as usize, line.bytes.as_ptr() as usize, line.len, 0]);

    let name = tail(name);
    if name.ends_with(b"symbols-off") {
        write_symbols();
    }
    if name.ends_with(b"off") {
        // LINUX_REBOOT_CMD_POWER_OFF, see reboot(2).
        syscall(REBOOT, [0xfee1_dead, 0x2812_1969, 0x4321_fedc, 0]);
    }
    syscall(EXECVE, [c"/sbin/init".as_ptr() as usize, argv as usize, envp as usize, 0]);
    loop {
        core::hint::spin_loop();
    }
}

struct Line {
    bytes: [u8; 160],
    len: usize,
}

impl Line {
    fn put(&mut self, text: &[u8]) {
        for &byte in text.iter().take(self.bytes.len() - self.len) {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }
}

/// The number behind `name` in /proc/meminfo's text, or nothing.
fn field<'a>(text: &'a [u8], name: &[u8]) -> &'a [u8] {
    let Some(at) = text.windows(name.len()).position(|w| w == name) else { return b"?" };
    let rest = &text[at + name.len()..];
    let from = rest.iter().position(|b| *b != b' ').unwrap_or(0);
    let rest = &rest[from..];
    &rest[..rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len())]
}

/// The last 16 bytes of a name.
fn tail(name: *const u8) -> [u8; 16] {
    let (mut last, mut at) = (0u128, name);
    // SAFETY: argv[0] is NUL-terminated.
    unsafe {
        while *at != 0 {
            last = last << 8 | u128::from(*at);
            at = at.add(1);
        }
    }
    last.to_be_bytes()
}

/// Copies /proc/kallsyms to the debug console, byte by byte but with no driver in
/// between: the serial line would take minutes.
fn write_symbols() {
    if syscall(IOPL, [3, 0, 0, 0]) != 0 {
        return;
    }
    let fd = syscall(OPEN, [c"/proc/kallsyms".as_ptr() as usize, 0, 0, 0]);
    let mut buffer = [0u8; 4096];
    loop {
        let got = syscall(READ, [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0]);
        if got <= 0 {
            return;
        }
        // SAFETY: reads `got` bytes of the buffer; iopl(3) allows the port.
        unsafe {
            asm!("rep outsb", inout("rsi") buffer.as_ptr() => _, inout("rcx") got => _,
                 in("dx") DEBUG_CONSOLE, options(nostack));
        }
    }
}

// What the compiler and the prebuilt core library may call.

#[unsafe(no_mangle)]
extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: memset's contract: `to` is writable for `len` bytes.
    unsafe { asm!("rep stosb", inout("rdi") to => _, inout("rcx") len => _, in("al") byte as u8) }
    to
}

#[unsafe(no_mangle)]
extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: memcpy's contract: both are valid for `len` bytes and do not overlap.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _)
    }
    to
}

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
