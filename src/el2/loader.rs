//! Puts a virtual machine's images into its memory, as QEMU's `virt` would.

use alloc::format;
use alloc::vec::Vec;

use bunshin::address::GuestAddress;
use bunshin::backend::{BootState, LoadError};
use bunshin::elf;
use bunshin::memory::GuestMemory;
use bunshin::virtio::rng::Entropy as _;
use platform::discover::Mpidr;
use platform::guest::image::KernelImage;
use platform::guest::tree::{self, GuestDescription, GuestGic};
use platform::guest::{GuestRange, layout, placement};

use crate::el2::entropy;
use crate::el2::host::host;
use crate::el2::machine::Machine;
use crate::el2::passthrough;

/// `EM_AARCH64` of ELF.
const EM_AARCH64: u16 = 183;
/// Boundary for a device tree that does not stand at the base of memory.
const TREE_ALIGNMENT: u64 = 2 << 20;
/// Bytes of seed for the guest's random numbers.
const SEED_BYTES: usize = 32;

fn error(reason: impl core::fmt::Display) -> LoadError {
    LoadError(format!("{reason}"))
}

/// Loads kernel, initial RAM disk and device tree.
///
/// # Errors
/// What does not fit or is not understood.
pub(crate) fn load(machine: &Machine) -> Result<BootState, LoadError> {
    let config = &machine.config;
    let memory = memory(machine)?;
    let kernel = host().payload(config.kernel);
    if let Some(raw) = config.raw {
        put(machine, raw.load, kernel, "kernel")?;
        let tree = device_tree(machine, None)?;
        let place = placement::firmware_tree(memory, tree.len() as u64).map_err(error)?;
        if raw.load < place.end().get() {
            return Err(error(format!(
                "kernel: load address {:#x} is where the device tree stands ({:#x} to {:#x}); load it higher",
                raw.load,
                place.base().get(),
                place.end().get()
            )));
        }
        put(machine, place.base().get(), &tree, "device tree")?;
        return Ok(BootState { entry: GuestAddress(raw.entry), context: place.base().get() });
    }
    if elf::is_elf(kernel) {
        let loaded = elf::load(kernel, EM_AARCH64, &machine.ram).map_err(error)?;
        let tree = device_tree(machine, None)?;
        let place = placement::firmware_tree(memory, tree.len() as u64).map_err(error)?;
        // At the base of memory, as firmware expects it, or else behind the program.
        let address = if loaded.start.0 >= place.end().get() {
            place.base().get()
        } else {
            loaded.end.0.next_multiple_of(TREE_ALIGNMENT)
        };
        put(machine, address, &tree, "device tree")?;
        return Ok(BootState { entry: loaded.entry, context: address });
    }
    let image = KernelImage::parse(kernel, kernel.len() as u64)
        .map_err(|reason| error(format!("kernel: {reason}")))?;
    let initrd = config.initrd.map(|payload| host().payload(payload));
    // The tree's size does not depend on where the initial RAM disk stands.
    let draft = device_tree(machine, initrd.map(|_| layout::UART))?;
    let places = placement::linux(
        memory,
        &image,
        initrd.map(|bytes| bytes.len() as u64),
        draft.len() as u64,
    )
    .map_err(error)?;
    let tree = device_tree(machine, places.initrd)?;
    put(machine, places.kernel.base().get(), kernel, "kernel")?;
    if let (Some(place), Some(bytes)) = (places.initrd, initrd) {
        put(machine, place.base().get(), bytes, "initrd")?;
    }
    put(machine, places.tree.base().get(), &tree, "device tree")?;
    Ok(BootState {
        entry: GuestAddress(places.kernel.base().get()),
        context: places.tree.base().get(),
    })
}

fn put(machine: &Machine, address: u64, bytes: &[u8], what: &str) -> Result<(), LoadError> {
    machine
        .ram
        .write(GuestAddress(address), bytes)
        .map_err(|reason| error(format!("{what}: {reason}")))
}

/// The guest's memory.
fn memory(machine: &Machine) -> Result<GuestRange, LoadError> {
    let base = platform::guest::GuestAddress::new(machine.ram.base());
    GuestRange::new(base, machine.ram.size()).ok_or_else(|| error("memory: it wraps"))
}

/// The guest's device tree.
fn device_tree(machine: &Machine, initrd: Option<GuestRange>) -> Result<Vec<u8>, LoadError> {
    let config = &machine.config;
    let vcpus: Vec<Mpidr> =
        machine.mpidrs.iter().map(|mpidr| Mpidr::from_register(*mpidr)).collect();
    let mut seed = [0; SEED_BYTES];
    let mut kaslr = [0; 8];
    let generator = entropy::generator();
    if let Some(generator) = generator {
        generator.fill(&mut seed);
        generator.fill(&mut kaslr);
    }
    let command_line = config.command_line.as_str();
    let virtio: Vec<u8> = (0..machine.virtio_devices.get().copied().unwrap_or(0)).collect();
    let description = GuestDescription {
        vcpus: &vcpus,
        cpu_compatible: "arm,armv8",
        memory: memory(machine)?,
        gic: if host().is_gicv3() { GuestGic::V3 } else { GuestGic::V2 },
        pmu: host().features.event_counters.is_some() && host().interrupts.pmu.is_some(),
        bootargs: (!command_line.is_empty()).then_some(command_line),
        initrd,
        rng_seed: if generator.is_some() { &seed } else { &[] },
        kaslr_seed: generator.map(|_| u64::from_le_bytes(kaslr)),
        virtio_slots: &virtio,
        reserved: &[],
    };
    passthrough::describe(&machine.passed, |devices| {
        tree::build_with_devices(&description, devices)
    })
    .map_err(error)
}
