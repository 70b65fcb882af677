//! A virtual CPU's fields in its control structure.

use x86_backend::machine::registers::{Attributes, Segment};
use x86_backend::state::SegmentName;

use super::vmcs::VmcsField as F;
use super::{Vmx, vmcs};
use crate::host::PerCpu;

impl Vmx {
    /// Makes the structure current; every access to its fields begins here.
    #[inline]
    pub(super) fn attach(&self) {
        let current = &PerCpu::current().vmx.current;
        if current.get() != self.vmcs {
            vmcs::make_current(self.vmcs);
            current.set(self.vmcs);
        }
    }

    #[inline]
    pub(super) fn get(&self, field: F) -> u64 {
        self.attach();
        vmcs::read(field)
    }

    #[inline]
    pub(super) fn set(&mut self, field: F, value: u64) {
        self.attach();
        vmcs::write(field, value);
    }

    pub(super) fn set_segment(&mut self, name: SegmentName, segment: &Segment) {
        let fields = vmcs::segment(name);
        self.set(fields.selector, u64::from(segment.selector));
        self.set(fields.base, segment.base);
        self.set(fields.limit, u64::from(segment.limit));
        self.set(fields.rights, u64::from(segment.attributes.access_rights()));
    }

    /// A segment register as the processor has it.
    pub(super) fn raw_segment(&self, name: SegmentName) -> Segment {
        let fields = vmcs::segment(name);
        let rights = self.get(fields.rights);
        // Access rights keep bits 8 to 11 of the packed form at 12 to 15.
        let packed = rights & 0xff | rights >> 4 & 0xf00;
        Segment {
            selector: self.get(fields.selector) as u16,
            base: self.get(fields.base),
            limit: self.get(fields.limit) as u32,
            attributes: Attributes::from_bits_retain(packed as u16),
        }
    }

    pub(super) fn set_primary(&mut self, bit: u32, value: bool) {
        let new = if value { self.primary | bit } else { self.primary & !bit };
        if new != self.primary {
            self.primary = new;
            self.set(F::ProcessorControls, u64::from(new));
        }
    }

    pub(super) fn set_secondary(&mut self, bit: u32, value: bool) {
        let new = if value { self.secondary | bit } else { self.secondary & !bit };
        if new != self.secondary {
            self.secondary = new;
            self.set(F::SecondaryControls, u64::from(new));
        }
    }
}
