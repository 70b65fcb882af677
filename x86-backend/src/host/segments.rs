//! Descriptor tables of one processor: segments, the task state with its
//! stacks for the worst exceptions.

use alloc::boxed::Box;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::paging::{StackKind, map_stack};
use super::percpu::PerCpu;

/// Interrupt stacks by number in the interrupt gates (SDM 7.14.5), 0 being
/// none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum InterruptStack {
    /// Stay on the stack of the interrupted code.
    Current = 0,
    /// For double faults and page faults, which a stack overflow raises.
    Fault = 1,
    /// For non-maskable interrupts.
    Nmi = 2,
    /// For machine checks.
    MachineCheck = 3,
}

/// Makes and loads the tables of the processor that runs this, `cpu`. They
/// are never freed. False when memory for the stacks is short.
pub(super) fn load(cpu: usize) -> bool {
    let mut tss = Box::new(TaskStateSegment::new());
    let mut stacks = tss.interrupt_stack_table;
    for (stack, kind) in [
        (InterruptStack::Fault, StackKind::Fault),
        (InterruptStack::Nmi, StackKind::Nmi),
        (InterruptStack::MachineCheck, StackKind::MachineCheck),
    ] {
        let Some(top) = map_stack(cpu, kind) else { return false };
        if let Some(slot) = stacks.get_mut(stack as usize - 1) {
            *slot = VirtAddr::new(top);
        }
    }
    tss.interrupt_stack_table = stacks;
    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let tss = Box::leak(tss);
    let base = core::ptr::from_ref(tss) as u64;
    let task = gdt.append(Descriptor::tss_segment(tss));
    PerCpu::current().task.set((task.0, base));
    gdt.load();
    // SAFETY: the selectors name descriptors of the table that was just loaded, which is never
    // freed; code and data stay flat.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(task);
    }
    true
}
