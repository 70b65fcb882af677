//! The border to the emulator (QEMU, "TCG Plugins", version 3 of the interface; QEMU 9.1 and newer).

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock};

use crate::options::{MARKS, Memory, Options};

type Id = u64;

/// Opaque types of the emulator.
#[repr(C)]
struct Block([u8; 0]);
#[repr(C)]
struct Instruction([u8; 0]);
#[repr(C)]
struct Scoreboard([u8; 0]);

/// A counter at `offset` of each CPU's row in `board`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Counter {
    board: *mut Scoreboard,
    offset: usize,
}

/// `QEMU_PLUGIN_INLINE_ADD_U64`, `QEMU_PLUGIN_CB_NO_REGS`.
const ADD: c_int = 0;
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, f: extern "C" fn(Id, *mut Block));
    fn qemu_plugin_register_atexit_cb(id: Id, f: extern "C" fn(Id, *mut c_void), data: *mut c_void);
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_data(insn: *const Instruction, to: *mut c_void, length: usize) -> usize;
    fn qemu_plugin_insn_haddr(insn: *const Instruction) -> *mut c_void;
    fn qemu_plugin_insn_vaddr(insn: *const Instruction) -> u64;
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut Scoreboard;
    fn qemu_plugin_u64_sum(counter: Counter) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        insn: *mut Instruction,
        operation: c_int,
        counter: Counter,
        value: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Instruction,
        f: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// The version of the interface that this is written for.
// SAFETY: the emulator looks for this name and type.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 3;

struct State {
    options: Options,
    out: File,
    hypervisor: Counter,
    others: Counter,
    memory: Memory,
}

// SAFETY: the pointer in the counters is never followed here, and the emulator lets any thread pass it back.
unsafe impl Send for State {}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

fn with_state(f: impl FnOnce(&mut State)) {
    if let Some(mut state) = STATE.get().and_then(|state| state.lock().ok()) {
        f(&mut state);
    }
}

impl State {
    /// Writes a line, unbuffered: the emulator may be killed at any time.
    fn say(&mut self, what: &str) {
        // SAFETY: the counters are of a scoreboard that lives for ever.
        let (hypervisor, others) =
            unsafe { (qemu_plugin_u64_sum(self.hypervisor), qemu_plugin_u64_sum(self.others)) };
        if let Err(error) = self.out.write_all(format!("{what} {hypervisor} {others}\n").as_bytes())
        {
            eprintln!("instruction-counter: {}: {error}", self.options.out.display());
        }
    }

    /// Has an instruction counted.
    ///
    /// # Safety
    /// `insn` is of a block that is being translated.
    unsafe fn count(&mut self, insn: *mut Instruction) {
        let mut code = [0; 4];
        // SAFETY: the caller's promise; `code` has the length that is given.
        let (host, virtual_address, length) = unsafe {
            (
                qemu_plugin_insn_haddr(insn) as u64,
                qemu_plugin_insn_vaddr(insn),
                qemu_plugin_insn_data(insn, code.as_mut_ptr().cast(), code.len()),
            )
        };
        let own = self.memory.holds(&self.options.hypervisor, host, virtual_address);
        let counter = if own { self.hypervisor } else { self.others };
        // SAFETY: as above; the callback has the type that the emulator calls.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, ADD, counter, 1);
            if MARKS.contains(&&code[..length.min(code.len())]) {
                qemu_plugin_register_vcpu_insn_exec_cb(
                    insn,
                    mark,
                    NO_REGISTERS,
                    std::ptr::null_mut(),
                );
            }
        }
    }
}

extern "C" fn mark(_cpu: c_uint, _: *mut c_void) {
    with_state(|state| state.say("mark"));
}

extern "C" fn end(_: Id, _: *mut c_void) {
    with_state(|state| state.say("end"));
}

extern "C" fn translate(_: Id, block: *mut Block) {
    with_state(|state| {
        // SAFETY: the emulator gives a block that it is translating; its instructions live as long.
        unsafe {
            for index in 0..qemu_plugin_tb_n_insns(block) {
                state.count(qemu_plugin_tb_get_insn(block, index));
            }
        }
    });
}

/// Called by the emulator when it has loaded the plugin; 0 is success.
///
/// # Safety
/// `words` are `count` strings that end with a zero.
// SAFETY: the emulator looks for this name and type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _: *const c_void,
    count: c_int,
    words: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let words: Vec<_> = (0..usize::try_from(count).unwrap_or(0))
        .map(|index| unsafe { CStr::from_ptr(*words.add(index)).to_string_lossy().into_owned() })
        .collect();
    let prepared = Options::parse(words.iter().map(String::as_str)).and_then(|options| {
        let out = File::create(&options.out)
            .map_err(|error| format!("{}: {error}", options.out.display()))?;
        Ok((options, out))
    });
    let (options, out) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("instruction-counter: {error}");
            return 1;
        }
    };
    // SAFETY: a row holds two numbers of 64 bits.
    let board = unsafe { qemu_plugin_scoreboard_new(2 * size_of::<u64>()) };
    let counter = |place: usize| Counter { board, offset: place * size_of::<u64>() };
    let state = State {
        options,
        out,
        hypervisor: counter(0),
        others: counter(1),
        memory: Memory::default(),
    };
    if STATE.set(Mutex::new(state)).is_err() {
        eprintln!("instruction-counter: loaded twice");
        return 1;
    }
    // SAFETY: `id` is the emulator's name for this plugin; the functions have the types that it calls.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
        qemu_plugin_register_atexit_cb(id, end, std::ptr::null_mut());
    }
    0
}
