//! A QEMU plugin that counts executed instructions by address, between the first
//! instruction of one program and that of another: where a boot's time goes, when
//! time is counted in instructions (`-icount shift=0`).
//!
//! `-plugin libinstruction_profile.so,start=ADDRESS,stop=ADDRESS,out=FILE`: counting
//! begins when `start` is first translated and ends when `stop` first is after that;
//! then a line `ADDRESS COUNT` for each instruction goes to `FILE`. All numbers are
//! hexadecimal. Programs are told apart by their addresses only. One processor only.
//! With `total=on` there is one line, `0 COUNT`, and the machine is several times faster.
//!
//! Follows QEMU's plugin interface version 1 (`include/qemu/qemu-plugin.h`), of
//! QEMU 4.2 to 8.2. An instruction counts when it begins: one that is begun again
//! after an exception counts twice, which QEMU's own clock does not do.
#![allow(unsafe_code, reason = "QEMU's interface is C")]

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What QEMU asks for before it calls anything.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

type PluginId = u64;
#[repr(C)]
struct Block(c_void);
#[repr(C)]
struct Instruction(c_void);

/// `enum qemu_plugin_op`: add a number to a 64-bit counter.
const ADD_U64: c_int = 0;

// SAFETY: as declared in qemu-plugin.h; QEMU exports them to plugins.
unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(
        id: PluginId,
        callback: extern "C" fn(PluginId, *mut Block),
    );
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut Block,
        op: c_int,
        counter: *mut c_void,
        number: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_inline(
        instruction: *mut Instruction,
        op: c_int,
        counter: *mut c_void,
        number: u64,
    );
}

/// A number that translated code adds to.
struct Counter(UnsafeCell<u64>);

// SAFETY: with one processor, translated code and callbacks run on one thread.
unsafe impl Sync for Counter {}

impl Counter {
    fn get(&self) -> u64 {
        // SAFETY: no code writes while a callback runs.
        unsafe { *self.0.get() }
    }

    fn clear(&self) {
        // SAFETY: no other code accesses it while a callback runs.
        unsafe { *self.0.get() = 0 }
    }
}

#[derive(Default)]
struct Profile {
    start: u64,
    stop: u64,
    out: String,
    total: bool,
    began: bool,
    ended: bool,
    /// By address. Leaked: translated code outlives everything here.
    counters: HashMap<u64, &'static Counter>,
}

static PROFILE: Mutex<Option<Profile>> = Mutex::new(None);

fn profile() -> MutexGuard<'static, Option<Profile>> {
    PROFILE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Profile {
    /// Reads `name=value` words; an error names the word.
    fn read(words: impl Iterator<Item = String>) -> Result<Profile, String> {
        let mut profile = Profile::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((&word, ""));
            let address = || u64::from_str_radix(value, 16).map_err(|_| word.clone());
            match name {
                "start" => profile.start = address()?,
                "stop" => profile.stop = address()?,
                "out" => value.clone_into(&mut profile.out),
                "total" => profile.total = value == "on",
                _ => return Err(word),
            }
        }
        Ok(profile)
    }

    /// Takes note of a block of code that is about to run for the first time.
    fn enter(&mut self, address: u64) {
        if !self.began && address == self.start {
            self.began = true;
            self.counters.values().for_each(|counter| counter.clear());
        } else if self.began && !self.ended && address == self.stop {
            self.ended = true;
            let mut text = String::new();
            for (address, counter) in &self.counters {
                if counter.get() != 0 {
                    // Writing to a string cannot fail.
                    let _ = writeln!(text, "{address:x} {:x}", counter.get());
                }
            }
            if let Err(error) = std::fs::write(&self.out, text) {
                eprintln!("instruction-profile: {}: {error}", self.out);
            }
        }
    }

    fn counter(&mut self, address: u64) -> &'static Counter {
        self.counters
            .entry(address)
            .or_insert_with(|| Box::leak(Box::new(Counter(UnsafeCell::new(0)))))
    }
}

extern "C" fn translate(_: PluginId, block: *mut Block) {
    let mut profile = profile();
    let Some(profile) = profile.as_mut() else { return };
    // SAFETY: QEMU's block is valid during this call, and so are its instructions.
    unsafe {
        profile.enter(qemu_plugin_tb_vaddr(block));
        if profile.ended {
            return;
        }
        let count = qemu_plugin_tb_n_insns(block);
        if profile.total {
            let counter = profile.counter(0).0.get().cast();
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, counter, count as u64);
            return;
        }
        for index in 0..count {
            let instruction = qemu_plugin_tb_get_insn(block, index);
            let counter = profile.counter(qemu_plugin_insn_vaddr(instruction));
            let counter = counter.0.get().cast();
            qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD_U64, counter, 1);
        }
    }
}

/// QEMU's entry.
///
/// # Safety
/// `argv` points to `argc` strings, as QEMU promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let words = (0..usize::try_from(argc).unwrap_or(0)).map(|index| {
        // SAFETY: see this function's contract.
        let word = unsafe { CStr::from_ptr(*argv.add(index)) };
        word.to_string_lossy().into_owned()
    });
    match Profile::read(words) {
        Ok(read) => *profile() = Some(read),
        Err(word) => {
            eprintln!("instruction-profile: {word}: not start=, stop=, total= or out=");
            return 1;
        }
    }
    // SAFETY: the callback stays valid as long as the plugin is loaded.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translate) };
    0
}
