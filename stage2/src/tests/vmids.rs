//! VMIDs against a TLB that remembers which VM ran under which number.

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;

use crate::{Vmid, VmidAllocator, VmidBits, VmidError, VmidTag};

const CPUS: usize = 4;

/// The CPUs and what they cached.
#[derive(Default)]
struct Machine {
    /// Which VM's entries may be cached under a number.
    cached: RefCell<HashMap<u16, usize>>,
    /// What each CPU has loaded: number and VM.
    loaded: RefCell<[Option<(u16, usize)>; CPUS]>,
    flushes: RefCell<u64>,
}

impl Machine {
    /// A CPU that runs a VM caches its entries, and must find none of another VM.
    fn run(&self, vmid: u16, vm: usize) {
        let old = self.cached.borrow_mut().insert(vmid, vm);
        assert!(old.is_none_or(|old| old == vm), "VM {vm} sees entries of VM {old:?}");
    }

    fn run_all(&self) {
        for (vmid, vm) in self.loaded.borrow().iter().flatten() {
            self.run(*vmid, *vm);
        }
    }

    fn flush(&self) {
        self.cached.borrow_mut().clear();
        *self.flushes.borrow_mut() += 1;
        self.run_all();
    }
}

fn run(steps: &[(usize, Option<usize>)], bits: VmidBits) -> u64 {
    let machine = Machine::default();
    let mut vmids = VmidAllocator::new(bits, CPUS).unwrap();
    let mut tags: HashMap<usize, VmidTag> = HashMap::new();
    for &(cpu, vm) in steps {
        match vm {
            Some(vm) => {
                let tag = tags.entry(vm).or_default();
                let vmid = vmids.activate(cpu, tag, || machine.flush()).unwrap();
                assert_ne!(vmid, Vmid::HOST);
                assert!(u32::from(vmid.get()) < bits.count());
                // All CPUs that start the VM from here on agree on its number.
                let again = vmids.activate(cpu, tag, || panic!("a flush for nothing"));
                assert_eq!(again, Ok(vmid));
                machine.loaded.borrow_mut()[cpu] = Some((vmid.get(), vm));
                for other in machine.loaded.borrow().iter().flatten() {
                    assert_eq!(other.0 == vmid.get(), other.1 == vm, "one number, one VM");
                }
            }
            None => {
                vmids.deactivate(cpu).unwrap();
                machine.loaded.borrow_mut()[cpu] = None;
            }
        }
        machine.run_all();
    }
    assert_eq!(vmids.roll_overs(), *machine.flushes.borrow());
    vmids.roll_overs()
}

#[test]
fn numbers_begin_at_one_and_stay_with_their_vm() {
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 2).unwrap();
    let mut tags = [VmidTag::default(); 3];
    for round in 0..3 {
        for (vm, tag) in tags.iter_mut().enumerate() {
            let vmid = vmids.activate(round % 2, tag, || panic!("no flush yet")).unwrap();
            assert_eq!(usize::from(vmid.get()), vm + 1);
        }
    }
}

#[test]
fn the_256th_vm_begins_a_generation_and_running_vms_keep_their_numbers() {
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 3).unwrap();
    let mut running = VmidTag::default();
    assert_eq!(vmids.activate(2, &mut running, || {}).unwrap().get(), 1);
    for number in 2..=255 {
        let vmid = vmids.activate(0, &mut VmidTag::default(), || panic!("too early")).unwrap();
        assert_eq!(vmid.get(), number);
    }
    let mut flushed = false;
    let vmid = vmids.activate(1, &mut VmidTag::default(), || flushed = true).unwrap();
    // 1 and 255 are still loaded on CPUs 2 and 0.
    assert_eq!((vmid.get(), flushed), (2, true));
    let on_another_cpu = vmids.activate(1, &mut running, || panic!("flushed twice")).unwrap();
    assert_eq!(on_another_cpu.get(), 1);
    assert_eq!(vmids.roll_overs(), 1);
}

#[test]
fn a_vm_that_runs_through_two_roll_overs_keeps_its_number() {
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 2).unwrap();
    let mut running = VmidTag::default();
    let number = vmids.activate(1, &mut running, || {}).unwrap();
    for _ in 0..600 {
        let other = vmids.activate(0, &mut VmidTag::default(), || {}).unwrap();
        assert_ne!(other, number);
    }
    assert_eq!(vmids.roll_overs(), 2);
    assert_eq!(vmids.activate(0, &mut running, || {}), Ok(number));
}

#[test]
fn all_cpus_of_a_vm_agree_after_roll_overs_that_only_some_of_them_noticed() {
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 3).unwrap();
    let mut running = VmidTag::default();
    let number = vmids.activate(1, &mut running, || {}).unwrap();
    for roll_overs in 1..4 {
        while vmids.roll_overs() < roll_overs {
            vmids.activate(0, &mut VmidTag::default(), || {}).unwrap();
        }
        // CPU 1 never left the VM; CPU 2 comes and goes.
        assert_eq!(vmids.activate(2, &mut running, || panic!("flushed")), Ok(number));
        vmids.deactivate(2).unwrap();
    }
}

#[test]
fn an_idle_cpu_holds_no_number_back() {
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 2).unwrap();
    vmids.activate(1, &mut VmidTag::default(), || {}).unwrap();
    vmids.deactivate(1).unwrap();
    for _ in 0..254 {
        vmids.activate(0, &mut VmidTag::default(), || panic!("too early")).unwrap();
    }
    let vmid = vmids.activate(0, &mut VmidTag::default(), || {}).unwrap();
    assert_eq!(vmid.get(), 1);
}

#[test]
fn more_cpus_than_numbers_are_refused() {
    for (bits, cpus, fits) in [
        (VmidBits::Eight, 0, true),
        (VmidBits::Eight, 254, true),
        (VmidBits::Eight, 255, false),
        (VmidBits::Sixteen, 65534, true),
        (VmidBits::Sixteen, 65535, false),
        (VmidBits::Sixteen, usize::MAX, false),
    ] {
        assert_eq!(VmidAllocator::new(bits, cpus).is_ok(), fits, "{bits:?} {cpus}");
    }
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 254).unwrap();
    for round in 0..3 {
        for cpu in 0..254 {
            let vmid = vmids.activate(cpu, &mut VmidTag::default(), || {}).unwrap();
            assert_ne!(vmid, Vmid::HOST, "round {round}");
        }
    }
}

#[test]
fn an_unknown_cpu_is_an_error() {
    let mut vmids = VmidAllocator::new(VmidBits::Eight, 2).unwrap();
    let error = VmidError::NoSuchCpu { cpu: 2, cpus: 2 };
    assert_eq!(vmids.activate(2, &mut VmidTag::default(), || {}), Err(error));
    assert_eq!(vmids.deactivate(2), Err(error));
}

#[test]
fn sixteen_bits_last_for_65535_vms() {
    let steps: Vec<_> =
        (0..if cfg!(miri) { 100 } else { 70_000 }).map(|vm| (0, Some(vm))).collect();
    assert_eq!(run(&steps, VmidBits::Sixteen), u64::from(!cfg!(miri)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 64 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn no_vm_ever_meets_the_entries_of_another(
        steps in prop::collection::vec(
            (0..CPUS, prop_oneof![1 => Just(None), 9 => (0_usize..400).prop_map(Some)]),
            1..if cfg!(miri) { 50 } else { 3000 },
        )
    ) {
        run(&steps, VmidBits::Eight);
    }
}
