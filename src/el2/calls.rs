//! HVC and SMC of guests: PSCI and the other services of the SMC Calling
//! Convention. Nothing reaches the host's firmware.

use bunshin::address::{GuestAddress, VcpuId};
use bunshin::backend::Vcpu as _;
use bunshin::exit::{Exit, PowerAnswer, PowerRequest};
use bunshin::statistics::ExitKind;
use bunshin::vcpu::Power;
use bunshin::virtio::rng::Entropy as _;
use psci::power::{AffinityInstance, AffinityState, EntryPoint, Suspend};
use psci::{Call, ErrorCode, Features, Response};

use crate::el2::entropy;
use crate::el2::stolen_time::StolenTimePage;
use crate::el2::vcpu::{El2Vcpu, Left};

impl El2Vcpu {
    /// Answers a call whose registers are the guest's X0 to X3.
    #[inline(always)]
    pub(crate) fn call(&mut self) -> Left {
        let [function, ..] = self.registers.x;
        let Some(x0) = psci::immediate(function as u32) else {
            return self.served_call();
        };
        self.return_values(psci::value(x0));
        self.handle().exits.count(ExitKind::Hypercall);
        Left::Nothing
    }

    /// A call of a service that is offered.
    #[inline(never)]
    fn served_call(&mut self) -> Left {
        let exit = self.answer_call();
        if exit.is_none() {
            // What goes to the core is counted there.
            self.handle().exits.count(ExitKind::Hypercall);
        }
        self.keep(exit)
    }

    fn answer_call(&mut self) -> Option<Exit> {
        let [x0, x1, x2, x3, ..] = self.registers.x;
        let features = Features {
            system_suspend: true,
            entropy: entropy::generator().is_some(),
            stolen_time: Some(StolenTimePage::record_address(self.index.get())),
            ..Features::default()
        };
        match psci::dispatch(&Call::new([x0, x1, x2, x3]), &features) {
            Response::Return(values) => {
                self.return_values(values);
                None
            }
            Response::Power(request) => self.power(request),
            Response::Entropy(request) => {
                let words = entropy::generator().map(|generator| {
                    let mut bytes = [0; 24];
                    generator.fill(&mut bytes);
                    let mut words = [0u64; 3];
                    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                        *word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
                    }
                    words
                });
                self.return_values(request.answer(words));
                None
            }
            // No mitigation is offered, so that none is asked for.
            Response::Mitigate(_) => None,
            // The features above offer no calls of our own.
            Response::Vendor(_) => {
                self.return_values(psci::value(psci::NOT_SUPPORTED));
                None
            }
        }
    }

    #[inline]
    fn return_values(&mut self, values: [u64; 4]) {
        for (register, value) in self.registers.x.iter_mut().zip(values) {
            *register = value;
        }
    }

    fn refuse(&mut self, error: ErrorCode) -> Option<Exit> {
        self.return_values(psci::result(Err(error)));
        None
    }

    /// An entry point in the core's terms, if there is memory.
    fn entry(&self, entry: EntryPoint) -> Option<(GuestAddress, u64)> {
        self.machine
            .is_memory(entry.address)
            .then_some((GuestAddress(entry.address), entry.context))
    }

    /// Hands a request of PSCI to the core.
    fn power(&mut self, request: psci::power::PowerRequest) -> Option<Exit> {
        use psci::power::PowerRequest as Psci;
        let request = match request {
            Psci::CpuOn { target, entry } => {
                let Some(target) = self.machine.vcpu_by_mpidr(target.into()) else {
                    return self.refuse(ErrorCode::InvalidParameters);
                };
                let Some((entry, context)) = self.entry(entry) else {
                    return self.refuse(ErrorCode::InvalidAddress);
                };
                PowerRequest::CpuOn { target: VcpuId(target), entry, context }
            }
            Psci::CpuOff => PowerRequest::CpuOff,
            Psci::CpuSuspend(Suspend::Standby) => {
                self.waits = true;
                PowerRequest::CpuSuspend { resume: None }
            }
            Psci::CpuSuspend(Suspend::PowerDown(entry)) => match self.entry(entry) {
                Some(resume) => {
                    self.waits = true;
                    PowerRequest::CpuSuspend { resume: Some(resume) }
                }
                None => return self.refuse(ErrorCode::InvalidAddress),
            },
            Psci::AffinityInfo(instance) => {
                let values = self.affinity_info(&instance);
                self.return_values(values);
                return None;
            }
            // The guest has saved its memory itself.
            Psci::SystemOff | Psci::SystemHibernate => PowerRequest::SystemOff,
            // Warm or cold: the images are loaded anew.
            Psci::SystemReset | Psci::SystemWarmReset { .. } => PowerRequest::SystemReset,
            Psci::SystemSuspend(entry) => match self.entry(entry) {
                Some((entry, context)) => {
                    self.waits = true;
                    PowerRequest::SystemSuspend { entry, context }
                }
                None => return self.refuse(ErrorCode::InvalidAddress),
            },
        };
        Some(Exit::Power(request))
    }

    fn affinity_info(&self, instance: &AffinityInstance) -> [u64; 4] {
        let states = self
            .machine
            .mpidrs
            .iter()
            .zip(&self.machine.vcpus)
            .filter(|(mpidr, _)| instance.contains(**mpidr))
            .map(|(_, seat)| match seat.handle.power() {
                Power::On => AffinityState::On,
                Power::OnPending { .. } => AffinityState::OnPending,
                Power::Off => AffinityState::Off,
            });
        AffinityInstance::answer(states)
    }

    /// The core's answer to a request of PSCI.
    pub(crate) fn answer_power(&mut self, answer: PowerAnswer) {
        if answer != PowerAnswer::Success {
            self.waits = false;
        }
        let outcome = match answer {
            PowerAnswer::Success => Ok(()),
            PowerAnswer::AlreadyOn => Err(ErrorCode::AlreadyOn),
            PowerAnswer::OnPending => Err(ErrorCode::OnPending),
            PowerAnswer::InvalidParameters => Err(ErrorCode::InvalidParameters),
            PowerAnswer::Denied => Err(ErrorCode::Denied),
        };
        self.return_values(psci::result(outcome));
    }
}
