//! Which host CPU is the home of which virtual CPU.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::address::CpuId;
use crate::config::VmConfig;
use crate::scheduler::Admission;

/// One host CPU.
#[derive(Debug)]
struct Seat {
    cpu: CpuId,
    /// Virtual CPUs that share it.
    load: usize,
    /// One virtual CPU has it for itself.
    pinned: bool,
    admission: Admission,
}

impl Seat {
    fn is_allowed(&self, allowed: &[u32]) -> bool {
        allowed.iter().any(|number| *number as usize == self.cpu.0)
    }
}

/// The homes of the virtual CPUs of all virtual machines. Those that are to
/// have a host CPU for themselves are seated first, then reservations, then the rest: the least
/// loaded host CPU of those allowed, the lowest number first.
#[derive(Debug)]
pub struct Placement {
    homes: Vec<(String, Result<Vec<CpuId>, String>)>,
}

impl Placement {
    /// Seats the virtual CPUs of `vms` on the host CPUs `online`.
    pub fn new<'c>(
        online: impl IntoIterator<Item = CpuId>,
        vms: impl IntoIterator<Item = &'c VmConfig>,
    ) -> Self {
        let seat = |cpu| Seat { cpu, load: 0, pinned: false, admission: Admission::default() };
        let mut seats: Vec<Seat> = online.into_iter().map(seat).collect();
        let mut order: Vec<(usize, &VmConfig)> = vms.into_iter().enumerate().collect();
        let count = order.len();
        // The order of the VM file decides among equals.
        order.sort_by_key(|(_, vm)| (!vm.pinned, vm.reservation.is_none()));
        let mut homes: Vec<(String, Result<Vec<CpuId>, String>)> =
            (0..count).map(|_| (String::new(), Ok(Vec::new()))).collect();
        for (number, vm) in order {
            let seated = (0..vm.vcpus).map(|vcpu| place(&mut seats, vm, vcpu)).collect();
            if let Some(home) = homes.get_mut(number) {
                *home = (vm.name.clone(), seated);
            }
        }
        Placement { homes }
    }

    /// The homes of a virtual machine's virtual CPUs.
    ///
    /// # Errors
    /// Why there is no place for them, and what to do.
    pub fn homes(&self, vm: &VmConfig) -> Result<Vec<CpuId>, String> {
        let found = self.homes.iter().find(|(name, _)| *name == vm.name);
        found.map_or_else(
            || Err("was not there when host CPUs were given away".into()),
            |(_, homes)| homes.clone(),
        )
    }
}

fn place(seats: &mut [Seat], vm: &VmConfig, vcpu: u32) -> Result<CpuId, String> {
    // A list that names only host CPUs that are not online means any.
    let any = !seats.iter().any(|seat| seat.is_allowed(&vm.cpus));
    let allowed = |seat: &&mut Seat| any || seat.is_allowed(&vm.cpus);
    if vm.pinned {
        let free = seats.iter_mut().filter(allowed).find(|seat| !seat.pinned && seat.load == 0);
        let seat = free.ok_or_else(|| {
            format!(
                "pinned: no host CPU is left for virtual CPU {vcpu}; pin fewer virtual CPUs, \
                 allow more host CPUs or leave `pinned` out"
            )
        })?;
        seat.pinned = true;
        return Ok(seat.cpu);
    }
    let mut shared: Vec<&mut Seat> =
        seats.iter_mut().filter(allowed).filter(|seat| !seat.pinned).collect();
    if shared.is_empty() {
        return Err(format!(
            "no host CPU is left for virtual CPU {vcpu}: pinned virtual CPUs have all of those allowed"
        ));
    }
    shared.sort_by_key(|seat| {
        (vm.reservation.map(|_| seat.admission.promised()), seat.load, seat.cpu)
    });
    for seat in shared {
        let fits = vm.reservation.is_none_or(|reservation| {
            seat.admission.promise(reservation.budget_us, reservation.period_us)
        });
        if fits {
            seat.load = seat.load.saturating_add(1);
            return Ok(seat.cpu);
        }
    }
    let (budget, period) = vm.reservation.map_or((0, 0), |r| (r.budget_us, r.period_us));
    Err(format!(
        "reservation: {budget} of every {period} us for virtual CPU {vcpu} fit on no host CPU beside \
         what is promised already ({} % at most); ask for less or allow more host CPUs",
        Admission::MOST / 10_000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Payload, Reservation};

    fn vm(name: &str, vcpus: u32, cpus: &[u32]) -> VmConfig {
        let kernel = Payload { offset: 0, size: 0 };
        VmConfig { cpus: cpus.to_vec(), ..VmConfig::new(name, vcpus, 2 << 20, kernel) }
    }

    fn homes(online: usize, vms: &[VmConfig]) -> Vec<Result<Vec<usize>, String>> {
        let placement = Placement::new((0..online).map(CpuId), vms);
        let numbers = |homes: Vec<CpuId>| homes.into_iter().map(|cpu| cpu.0).collect();
        vms.iter().map(|vm| placement.homes(vm).map(numbers)).collect()
    }

    #[test]
    fn virtual_cpus_spread_over_the_allowed_host_cpus() {
        let vms = [&[][..], &[], &[2], &[], &[9], &[0, 1]]
            .iter()
            .enumerate()
            .map(|(number, cpus)| vm(&format!("vm{number}"), 1, cpus))
            .collect::<Vec<_>>();
        let expected = [0, 1, 2, 0, 1, 0].map(|cpu| Ok(vec![cpu]));
        assert_eq!(homes(3, &vms), expected);
        assert_eq!(homes(2, &[vm("a", 5, &[])]), [Ok(vec![0, 1, 0, 1, 0])]);
    }

    #[test]
    fn a_pinned_virtual_cpu_has_its_host_cpu_for_itself() {
        let pinned =
            |name: &str, vcpus, cpus: &[u32]| VmConfig { pinned: true, ..vm(name, vcpus, cpus) };
        let all = [vm("first", 4, &[]), pinned("rt", 2, &[1, 2]), vm("last", 1, &[])];
        assert_eq!(homes(4, &all), [Ok(vec![0, 3, 0, 3]), Ok(vec![1, 2]), Ok(vec![0])]);
        let too_many = homes(2, &[pinned("a", 1, &[]), pinned("b", 2, &[]), vm("c", 1, &[])]);
        assert_eq!(too_many[0], Ok(vec![0]));
        assert!(
            too_many[1].as_ref().is_err_and(|reason| reason.starts_with("pinned: no host CPU"))
        );
        assert!(
            too_many[2]
                .as_ref()
                .is_err_and(|reason| reason.contains("pinned virtual CPUs have all"))
        );
    }

    #[test]
    fn reservations_are_admitted_as_long_as_they_fit() {
        let reserved = |name: &str, budget_us| VmConfig {
            reservation: Some(Reservation { budget_us, period_us: 1000 }),
            ..vm(name, 1, &[])
        };
        let all = [
            vm("rest", 2, &[]),
            reserved("a", 600),
            reserved("b", 500),
            reserved("c", 400),
            reserved("d", 100),
        ];
        let found = homes(2, &all);
        assert_eq!(found[1], Ok(vec![0]));
        assert_eq!(found[2], Ok(vec![1]));
        assert_eq!(found[3], Ok(vec![1]));
        assert_eq!(found[4], Ok(vec![0]));
        let found = homes(1, &[reserved("a", 600), reserved("b", 500)]);
        assert!(found[1].as_ref().is_err_and(|reason| reason.contains("500 of every 1000 us")));
    }
}
