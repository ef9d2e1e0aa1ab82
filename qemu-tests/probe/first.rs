//! The lab's first program of a live system: it stamps the moment at which an
//! initramfs hands over, then becomes the real init.
//!
//! A line in /dev/kmsg carries the kernel's own time, so all initramfs are timed
//! by the same clock: from the kernel's "Run /init" to this line. MemAvailable
//! shows what the initramfs left in memory. Called by a name that ends in "off"
//! it powers the machine off instead of going on.
//!
//! Freestanding, 2 KB of code: loading a libc would be part of the measurement.
#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};

const READ: usize = 0;
const WRITE: usize = 1;
const OPEN: usize = 2;
const EXECVE: usize = 59;
const REBOOT: usize = 169;

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

    if ends_in_off(name) {
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

fn ends_in_off(name: *const u8) -> bool {
    let mut last = [0u8; 3];
    let mut at = name;
    // SAFETY: argv[0] is NUL-terminated.
    unsafe {
        while *at != 0 {
            last = [last[1], last[2], *at];
            at = at.add(1);
        }
    }
    last == *b"off"
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
