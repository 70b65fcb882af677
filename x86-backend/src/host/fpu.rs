//! A guest's floating-point, vector and debug registers. The hypervisor uses
//! none of them, so they stay where they are until another guest needs them.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// CPUID leaf 1 ECX.
const CPUID_XSAVE: u32 = 1 << 26;
/// CPUID leaf with sizes and state components.
const LEAF_XSAVE: u32 = 0xd;
/// Bytes of the area of FXSAVE, and the least of XSAVE.
const LEGACY_SIZE: usize = 512;
/// Alignment that XSAVE wants.
const ALIGN: usize = 64;
/// Offset of the x87 control word, and its value after reset.
const CONTROL_WORD: (usize, u16) = (0, 0x037f);
/// Offset of MXCSR, and its value after reset.
const MXCSR: (usize, u32) = (24, 0x1f80);
/// State components: x87.
const XCR0_X87: u64 = 1;

/// Components that guests may use: x87, SSE, AVX, AVX-512 and protection keys.
/// Others need support of their own.
const KNOWN: u64 = 0b10_1110_0111;

/// Components of the processor that guests may use; 0 without XSAVE.
pub(crate) fn components() -> u64 {
    if __cpuid(1).ecx & CPUID_XSAVE == 0 {
        return 0;
    }
    let leaf = __cpuid_count(LEAF_XSAVE, 0);
    (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & KNOWN
}

fn write_xcr0(value: u64) {
    // SAFETY: CR4.OSXSAVE is set where XSAVE exists, and the caller gives a value that the processor
    // takes: a subset of its components with their dependencies.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags));
    }
}

/// The state while it is not in the processor.
pub(crate) struct FpuState {
    area: *mut u8,
    layout: Layout,
    /// All components, or 0 without XSAVE.
    components: u64,
    /// The guest's XCR0.
    xcr0: u64,
    /// DR0 to DR3.
    debug: [u64; 4],
}

// SAFETY: the area is owned by this value alone.
unsafe impl Send for FpuState {}

impl Drop for FpuState {
    fn drop(&mut self) {
        // SAFETY: `area` came from the allocator with this layout.
        unsafe { dealloc(self.area, self.layout) }
    }
}

impl FpuState {
    /// The state after reset; `None` when memory is short.
    pub(crate) fn new() -> Option<Self> {
        let components = components();
        let size = if components == 0 {
            LEGACY_SIZE
        } else {
            // ECX: the size for everything that the processor has.
            (__cpuid_count(LEAF_XSAVE, 0).ecx as usize).max(LEGACY_SIZE + ALIGN)
        };
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let area = unsafe { alloc_zeroed(layout) };
        if area.is_null() {
            return None;
        }
        let mut state = FpuState { area, layout, components, xcr0: XCR0_X87, debug: [0; 4] };
        state.reset();
        Some(state)
    }

    /// Back to the state after reset; not while it is in the processor.
    pub(crate) fn reset(&mut self) {
        // SAFETY: the area has its layout's size, and the fields lie within, aligned.
        unsafe {
            self.area.write_bytes(0, self.layout.size());
            self.area.add(CONTROL_WORD.0).cast::<u16>().write(CONTROL_WORD.1);
            self.area.add(MXCSR.0).cast::<u32>().write(MXCSR.1);
        }
        self.xcr0 = XCR0_X87;
        self.debug = [0; 4];
    }

    /// The guest's XCR0.
    pub(crate) fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Changes XCR0, which is in the processor now. `value` was checked.
    pub(crate) fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
        write_xcr0(value);
    }

    /// Puts the state into the processor.
    pub(crate) fn load(&mut self) {
        let [d0, d1, d2, d3] = self.debug;
        // SAFETY: the area was written by the matching instruction or by `reset`; DR7 enables
        // nothing while the host runs.
        unsafe {
            if self.components == 0 {
                asm!("fxrstor64 [{}]", in(reg) self.area, options(nostack, preserves_flags));
            } else {
                write_xcr0(self.components);
                asm!("xrstor64 [{}]", in(reg) self.area, in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack, preserves_flags));
                write_xcr0(self.xcr0);
            }
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
                in(reg) d0, in(reg) d1, in(reg) d2, in(reg) d3,
                options(nomem, nostack, preserves_flags));
        }
    }

    /// Takes the state out of the processor.
    pub(crate) fn save(&mut self) {
        let (d0, d1, d2, d3): (u64, u64, u64, u64);
        // SAFETY: the area is large enough for all components.
        unsafe {
            if self.components == 0 {
                asm!("fxsave64 [{}]", in(reg) self.area, options(nostack, preserves_flags));
            } else {
                write_xcr0(self.components);
                asm!("xsave64 [{}]", in(reg) self.area, in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack, preserves_flags));
            }
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
                out(reg) d0, out(reg) d1, out(reg) d2, out(reg) d3,
                options(nomem, nostack, preserves_flags));
        }
        self.debug = [d0, d1, d2, d3];
    }
}
