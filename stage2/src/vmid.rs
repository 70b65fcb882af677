//! Tags of TLB entries: which VM they belong to.
//!
//! There are fewer VMIDs than a machine may start VMs in its life. Each VM remembers its VMID with
//! the *generation* it was given in; when all are used up, a new generation begins, everything that
//! is cached of any VM is dropped once, and each VM gets a VMID anew when it next runs. VMs that are
//! running at that moment keep theirs.

use alloc::boxed::Box;
use alloc::vec;

/// Width of a VMID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VmidBits {
    /// 8 bits: 255 VMs.
    Eight,
    /// 16 bits (FEAT_VMID16): 65535 VMs.
    Sixteen,
}

impl VmidBits {
    /// Number of values, the host's 0 included.
    pub const fn count(self) -> u32 {
        match self {
            Self::Eight => 1 << 8,
            Self::Sixteen => 1 << 16,
        }
    }
}

/// The tag of a VM's TLB entries, as `VTTBR_EL2` holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vmid(u16);

impl Vmid {
    /// The host's: no VM ever has it. For when no VM's table is loaded.
    pub const HOST: Self = Self(0);

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A VM's memory of its VMID: keep one per VM, under the same lock as the [`VmidAllocator`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmidTag(Option<Tag>);

impl VmidTag {
    /// The VMID under which TLBs may hold entries of the VM; `None` before it first ran.
    pub fn vmid(&self) -> Option<Vmid> {
        self.0.map(|tag| tag.vmid)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    generation: u64,
    vmid: Vmid,
}

/// Why a VMID was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmidError {
    /// Each CPU may hold on to a VMID, so there must be more VMIDs than CPUs.
    #[error("{cpus} CPUs, but only {vmids} VMIDs; start fewer CPUs")]
    TooManyCpus {
        /// Number of CPUs.
        cpus: usize,
        /// Number of VMIDs.
        vmids: u32,
    },
    /// No such CPU.
    #[error("CPU {cpu} is not among the {cpus} that the allocator was made for")]
    NoSuchCpu {
        /// Index of the CPU.
        cpu: usize,
        /// Number of CPUs.
        cpus: usize,
    },
}

/// What a CPU holds.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// The tag that its `VTTBR_EL2` was loaded with in this generation.
    active: Option<Tag>,
    /// The tag that it had loaded when the generation began, and may still run with.
    reserved: Option<Tag>,
}

/// Hands out VMIDs; one for the machine, behind a lock.
#[derive(Debug)]
pub struct VmidAllocator {
    generation: u64,
    /// A bit for each VMID that this generation may not hand out again.
    used: Box<[u64]>,
    /// Where the search for a free VMID starts.
    next: u16,
    cpus: Box<[Cpu]>,
}

impl VmidAllocator {
    /// An allocator for VMIDs of `bits` and `cpus` CPUs, with indices from 0.
    ///
    /// # Errors
    /// [`VmidError::TooManyCpus`].
    pub fn new(bits: VmidBits, cpus: usize) -> Result<Self, VmidError> {
        // One for the host, and one to give away while all CPUs hold on to theirs.
        let fits = u32::try_from(cpus).is_ok_and(|cpus| cpus < bits.count().saturating_sub(1));
        if !fits {
            return Err(VmidError::TooManyCpus { cpus, vmids: bits.count() });
        }
        let words = match bits {
            VmidBits::Eight => (1 << 8) / 64,
            VmidBits::Sixteen => (1 << 16) / 64,
        };
        let mut new = Self {
            generation: 1,
            used: vec![0; words].into_boxed_slice(),
            next: 0,
            cpus: vec![Cpu::default(); cpus].into_boxed_slice(),
        };
        new.forget_all();
        Ok(new)
    }

    /// The VMID for the VM of `tag`, which CPU `cpu` is about to load. `flush` is called if a new
    /// generation begins: it must drop what any CPU has cached of any VM (`tlbi alle1is`, and
    /// `ic ialluis` where instruction caches are tagged) before it returns. Keep the lock until the
    /// register is written.
    ///
    /// # Errors
    /// [`VmidError::NoSuchCpu`].
    pub fn activate(
        &mut self,
        cpu: usize,
        tag: &mut VmidTag,
        flush: impl FnOnce(),
    ) -> Result<Vmid, VmidError> {
        let cpus = self.cpus.len();
        if cpu >= cpus {
            return Err(VmidError::NoSuchCpu { cpu, cpus });
        }
        let current = match tag.0 {
            Some(current) if current.generation == self.generation => current,
            old => old.and_then(|old| self.carry_over(old)).unwrap_or_else(|| self.assign(flush)),
        };
        tag.0 = Some(current);
        if let Some(slot) = self.cpus.get_mut(cpu) {
            slot.active = Some(current);
        }
        Ok(current.vmid)
    }

    /// CPU `cpu` has loaded [`Vmid::HOST`]: it need not keep a VMID when a generation ends.
    ///
    /// # Errors
    /// [`VmidError::NoSuchCpu`].
    pub fn deactivate(&mut self, cpu: usize) -> Result<(), VmidError> {
        let cpus = self.cpus.len();
        let slot = self.cpus.get_mut(cpu).ok_or(VmidError::NoSuchCpu { cpu, cpus })?;
        *slot = Cpu::default();
        Ok(())
    }

    /// How often everything had to be dropped.
    pub fn roll_overs(&self) -> u64 {
        self.generation.saturating_sub(1)
    }

    /// If a CPU was running with `old` when the generation began, its VM keeps the number.
    fn carry_over(&mut self, old: Tag) -> Option<Tag> {
        let new = Tag { generation: self.generation, ..old };
        let mut found = None;
        // All CPUs that ran the VM then: a later roll-over must find the same tag on each.
        for cpu in self.cpus.iter_mut().filter(|cpu| cpu.reserved == Some(old)) {
            cpu.reserved = Some(new);
            found = Some(new);
        }
        found
    }

    fn assign(&mut self, flush: impl FnOnce()) -> Tag {
        let vmid = self.find_free().or_else(|| {
            self.roll_over();
            flush();
            self.find_free()
        });
        // `new` made sure that after a roll-over some VMID is free.
        let vmid = vmid.unwrap_or(Vmid::HOST);
        set_used(&mut self.used, vmid);
        self.next = vmid.0;
        Tag { generation: self.generation, vmid }
    }

    fn roll_over(&mut self) {
        self.generation = self.generation.saturating_add(1);
        self.forget_all();
        for cpu in &mut self.cpus {
            // A CPU that loaded nothing since the last roll-over still runs with what it had then.
            cpu.reserved = cpu.active.take().or(cpu.reserved);
            if let Some(Tag { vmid, .. }) = cpu.reserved {
                set_used(&mut self.used, vmid);
            }
        }
    }

    /// Frees all VMIDs but the host's.
    fn forget_all(&mut self) {
        self.used.fill(0);
        self.next = 0;
        set_used(&mut self.used, Vmid::HOST);
    }

    /// The first free VMID from `next` on. What lies before it was handed out in this generation.
    fn find_free(&self) -> Option<Vmid> {
        let first = usize::from(self.next / 64);
        self.used.iter().enumerate().skip(first).find(|(_, word)| **word != u64::MAX).and_then(
            |(index, word)| {
                let number = index.checked_mul(64)?.checked_add(word.trailing_ones() as usize)?;
                u16::try_from(number).ok().map(Vmid)
            },
        )
    }
}

fn set_used(used: &mut [u64], vmid: Vmid) {
    if let Some(word) = used.get_mut(usize::from(vmid.0 / 64)) {
        *word |= 1 << (vmid.0 % 64);
    }
}
