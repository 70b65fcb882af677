//! Loads a virtual machine's kernel and initial RAM disk from the bundle.

use alloc::format;
use alloc::vec::Vec;

use bunshin::address::GuestAddress;
use bunshin::backend::LoadError;
use bunshin::config::{Payload, VmConfig};
use bunshin::memory::GuestMemory;
use x86_backend::machine::acpi;
use x86_backend::machine::load::{self, Content, Facts, Start};
use x86_backend::machine::power::{RESET_PORT, RESET_VALUE};
use x86_backend::machine::registers::{InitialState, Table};

use crate::ram::Ram;

/// Where processors start after a reset, as software that wants one in real
/// mode jumps there (FFFF:0000).
const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);

/// What firmware does there: `mov dx, RESET_PORT; mov al, RESET_VALUE; out dx,
/// al; hlt; jmp` back to the halt.
const fn reset_code() -> [u8; 9] {
    let [low, high] = RESET_PORT.to_le_bytes();
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd]
}

/// What a virtual machine is loaded from, again at every reset.
pub(crate) struct Images {
    kernel: &'static [u8],
    initrd: Option<&'static [u8]>,
    command_line: alloc::string::String,
    vcpus: u32,
    memory: u64,
    virtio: Vec<acpi::VirtioSlot>,
}

impl Images {
    /// The images of `config` in `bundle`, which was checked.
    pub(crate) fn new(config: &VmConfig, bundle: &'static [u8]) -> Self {
        let slice = |payload: Payload| {
            bundle.get(payload.offset..).and_then(|rest| rest.get(..payload.size)).unwrap_or(&[])
        };
        Images {
            kernel: slice(config.kernel),
            initrd: config.initrd.map(slice),
            command_line: config.command_line.clone(),
            vcpus: config.vcpus,
            memory: config.memory,
            virtio: Vec::new(),
        }
    }

    /// Tells the guest of its virtio devices.
    pub(crate) fn describe(&mut self, virtio: Vec<acpi::VirtioSlot>) {
        self.virtio = virtio;
    }

    /// Puts everything into memory, which is zero, and says how the first
    /// virtual CPU starts.
    ///
    /// # Errors
    /// Why an image cannot be loaded.
    pub(crate) fn load(&self, ram: &Ram) -> Result<InitialState, LoadError> {
        let tables =
            acpi::build(self.vcpus, &self.virtio).map_err(|error| LoadError(format!("{error}")))?;
        let facts = Facts {
            memory: self.memory,
            command_line: &self.command_line,
            initrd: self.initrd.map(|initrd| initrd.len() as u64),
            rsdp: tables.address,
        };
        let plan = load::plan(self.kernel, &facts)
            .map_err(|error| LoadError(format!("kernel: {error}")))?;
        let outside = |error| LoadError(format!("kernel: {error}"));
        ram.write(tables.address, &tables.bytes).map_err(outside)?;
        ram.write(RESET_VECTOR, &reset_code()).map_err(outside)?;
        for write in &plan.writes {
            let bytes = match &write.content {
                Content::Bytes(bytes) => bytes.as_slice(),
                Content::Kernel(range) => self.kernel.get(range.clone()).unwrap_or(&[]),
                Content::Initrd => self.initrd.unwrap_or(&[]),
            };
            ram.write(write.address, bytes).map_err(outside)?;
        }
        Ok(initial_state(&plan.start))
    }
}

fn initial_state(start: &Start) -> InitialState {
    match *start {
        Start::Long { entry, stack, page_tables, gdt: (base, limit), parameters } => InitialState {
            rsp: stack,
            rsi: parameters.0,
            gdtr: Table { base: base.0, limit },
            ..InitialState::long(entry, page_tables.0)
        },
        Start::Protected { entry, magic, information } => InitialState {
            rax: u64::from(magic),
            rbx: information.0,
            ..InitialState::protected(entry)
        },
    }
}
