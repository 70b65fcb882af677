//! The loop of one host CPU: pick a virtual CPU, run it, handle its exits.

mod exits;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use exits::run_on;

use crate::address::{CpuId, GuestAddress, Instant};
use crate::backend::{Backend, Vcpu};
use crate::bus::{Near, Progress};
use crate::hypervisor::{Hypervisor, Mail};
use crate::scheduler::{Bandwidth, RunQueue};
use crate::trace::{Recorder, Source};
use crate::vcpu::Power;
use crate::vm::{Outcome, Vm};

/// Slices per second when virtual CPUs share a host CPU.
const SLICES_PER_SECOND: u64 = 200;

/// What a virtual CPU waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Nothing: it wants to run.
    Nothing,
    /// An interrupt.
    Interrupt,
}

/// A virtual CPU that lives on this host CPU.
struct Slot<B: Backend> {
    vcpu: B::Vcpu,
    vm: Arc<Vm<B>>,
    wait: Wait,
    /// Its name in the flight recorder.
    source: Source,
    /// Where a power-down suspend resumes.
    resume: Option<(GuestAddress, u64)>,
    /// The device that it accessed last.
    near: Near,
}

impl<B: Backend> Slot<B> {
    /// Whether an interrupt would make it run. One that was blocked when its
    /// virtual machine stopped does not wait for its timers any more.
    fn sleeps(&self) -> bool {
        self.wait == Wait::Interrupt
            && !self.vm.is_stopping()
            && self.vcpu.handle().power() == Power::On
    }
}

/// What the loop does after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Back into the guest.
    Resume,
    /// Wait for an interrupt.
    Block,
    /// Let another virtual CPU run, if there is one.
    Yield,
    /// See whether the virtual machine goes on and whose turn it is.
    Reconsider,
    /// The virtual CPU does not run any more.
    Leave,
}

/// The state of one host CPU.
pub struct Cpu<'h, B: Backend> {
    id: CpuId,
    hypervisor: &'h Hypervisor<B>,
    slots: Vec<Slot<B>>,
    queue: RunQueue,
    /// Ticks of a slice.
    slice: u64,
    recorder: Option<&'h Recorder>,
    /// When output that had to wait is due on the console.
    attention_due: Option<Instant>,
    /// Virtual machines that are being prepared for their start, the first of them in turns with
    /// whoever wants to run here.
    preparing: VecDeque<Arc<Vm<B>>>,
}

impl<'h, B: Backend> Cpu<'h, B> {
    /// Host CPU `id` of `hypervisor`, with nothing to run yet.
    pub fn new(hypervisor: &'h Hypervisor<B>, id: CpuId) -> Self {
        let slice = hypervisor.backend.frequency().checked_div(SLICES_PER_SECOND).unwrap_or(0);
        let slice = slice.max(1);
        let queue = RunQueue::new(slice);
        let recorder = hypervisor.recorder(id);
        let (slots, preparing) = (Vec::new(), VecDeque::new());
        Cpu { id, hypervisor, slots, queue, slice, recorder, attention_due: None, preparing }
    }

    /// Runs virtual CPUs for ever.
    pub fn run(&mut self) -> ! {
        loop {
            self.step();
        }
    }

    /// One turn of the loop: run one virtual CPU until it gives way, or idle
    /// until something happens.
    pub fn step(&mut self) {
        self.adopt();
        if self.wants_attention() {
            self.attend();
            // What the monitor leaves for the CPU that it runs on comes without a kick.
            if self.mail_waits() {
                return;
            }
        }
        self.prepare();
        let now = self.hypervisor.backend.now();
        self.refresh(now, None);
        match self.queue.pick(now) {
            Some(index) => self.run_slot(index, now),
            None if self.has_work() => {}
            None => {
                if self.hypervisor.all_stopped() {
                    self.hypervisor.console.flush();
                    self.hypervisor.backend.power_off();
                }
                let sleeper = self.earliest_deadline(None);
                let first = [sleeper, self.attention_due].into_iter().flatten().min();
                self.hypervisor.backend.set_timer(first);
                self.hypervisor.backend.idle();
            }
        }
    }

    /// Takes in the virtual CPUs that others sent.
    fn adopt(&mut self) {
        let Some(mailbox) = self.hypervisor.mailbox(self.id) else { return };
        if !mailbox.is_full() {
            return;
        }
        for mail in mailbox.take() {
            match mail {
                Mail::Arrival { vcpu, vm } => {
                    let reservation = vm.config.reservation.map(|r| Bandwidth {
                        budget: self.ticks(r.budget_us),
                        period: self.ticks(r.period_us),
                    });
                    self.queue.add(vm.config.weight, reservation);
                    let number = self.hypervisor.number(&vm).unwrap_or(usize::MAX);
                    let source = Source::new(number, vcpu.handle().id().0);
                    self.slots.push(Slot {
                        vcpu,
                        vm,
                        wait: Wait::Nothing,
                        source,
                        resume: None,
                        near: Near::default(),
                    });
                }
                Mail::Start(vm) => {
                    if vm.begin_start() {
                        self.hypervisor.stay_on(false);
                        self.preparing.push_back(vm);
                    }
                }
                Mail::Request(vm, transition) => {
                    let asked = vm.request(&self.hypervisor.backend, transition);
                    self.follow(vm, asked);
                }
            }
        }
    }

    /// Takes over what is left to be done for a transition.
    fn follow(&mut self, vm: Arc<Vm<B>>, asked: Outcome) {
        match asked {
            Outcome::Impossible | Outcome::UnderWay => {}
            Outcome::Prepare => self.preparing.push_back(vm),
        }
    }

    /// Prepares the first of the machines that are to start, for a part of a slice. Then those that
    /// run here have their turn.
    fn prepare(&mut self) {
        let backend = &self.hypervisor.backend;
        let Some(vm) = self.preparing.front() else { return };
        let end = backend.now().0.saturating_add(self.slice >> 2);
        let ready = loop {
            match vm.prepare(backend) {
                Progress::Done => break true,
                Progress::Again if backend.now().0 >= end => break false,
                Progress::Again => {}
            }
        };
        if ready {
            self.preparing.pop_front();
        }
    }

    /// Whether this host CPU has something to do beside running guests.
    fn has_work(&self) -> bool {
        !self.preparing.is_empty() || self.mail_waits()
    }

    /// Tells the queue which slots want to run. `loaded` is the one that is on
    /// this CPU and knows itself whether it waits.
    fn refresh(&mut self, now: Instant, loaded: Option<usize>) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let runnable = !slot.vm.is_stopping()
                && match slot.vcpu.handle().power() {
                    Power::Off => false,
                    Power::OnPending { .. } => true,
                    Power::On => match slot.wait {
                        Wait::Nothing => true,
                        Wait::Interrupt if loaded == Some(index) => false,
                        Wait::Interrupt => {
                            let timer = slot.vcpu.wake_deadline().is_some_and(|due| due <= now);
                            let woken = timer
                                || (slot.vcpu.handle().take_wake()
                                    && slot.vcpu.interrupt_pending());
                            if woken {
                                slot.wait = Wait::Nothing;
                            }
                            woken
                        }
                    },
                };
            self.queue.set_runnable(index, runnable, now);
        }
    }

    /// When the first timer of a blocked virtual CPU is due.
    fn earliest_deadline(&self, except: Option<usize>) -> Option<Instant> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(index, slot)| Some(*index) != except && slot.sleeps())
            .filter_map(|(_, slot)| slot.vcpu.wake_deadline())
            .min()
    }

    fn run_slot(&mut self, index: usize, now: Instant) {
        let backend = &self.hypervisor.backend;
        let shared = self.slots.len() > 1;
        let Some(slot) = self.slots.get_mut(index) else { return };
        if !slot.vm.enter() {
            return;
        }
        if let Some((entry, context)) = slot.vcpu.handle().take_start() {
            slot.wait = Wait::Nothing;
            slot.resume = None;
            slot.vcpu.start(entry, context);
        }
        if let Some((entry, context)) = slot.resume.take() {
            slot.vcpu.start(entry, context);
        }
        slot.vcpu.load(shared);
        slot.vcpu.handle().begin(now);
        let mut began = now;
        // It is the turn of whom this host CPU prepares after a slice.
        let turn = if self.preparing.is_empty() { u64::MAX } else { self.slice };
        let turn_end = Instant(now.0.saturating_add(turn));
        if shared {
            self.arm(index, began);
        } else if self.attention_due.is_some() {
            backend.set_timer(self.attention_due);
        }
        loop {
            let Some(slot) = self.slots.get_mut(index) else { return };
            match run_on(self.hypervisor, self.recorder, slot) {
                Next::Resume => {}
                Next::Reconsider => {
                    if self.wants_attention() {
                        self.attend();
                        if !shared {
                            backend.set_timer(self.attention_due);
                        }
                    }
                    let Some(slot) = self.slots.get(index) else { return };
                    if slot.vm.is_stopping() || self.mail_waits() {
                        break;
                    }
                    if shared {
                        let now = backend.now();
                        self.settle(index, &mut began, now);
                        if self.queue.pick(now) != Some(index) || now >= turn_end {
                            break;
                        }
                        self.arm(index, began);
                    }
                }
                Next::Yield => {
                    if shared {
                        let now = backend.now();
                        self.settle(index, &mut began, now);
                        if self.queue.contended(index) {
                            // Whom it waits for is most likely one of its own machine.
                            let sibling = self.sibling(index);
                            self.queue.give_way(index, sibling);
                            break;
                        }
                    }
                }
                Next::Block => {
                    slot.wait = Wait::Interrupt;
                    if !self.wait_in_place(index, &mut began) {
                        break;
                    }
                }
                Next::Leave => break,
            }
        }
        let now = backend.now();
        self.queue.charge(index, now.0.saturating_sub(began.0));
        if let Some(slot) = self.slots.get_mut(index) {
            slot.vcpu.handle().end(now);
            slot.vcpu.save();
            let vm = slot.vm.clone();
            let asked = vm.leave(backend);
            self.follow(vm, asked);
        }
    }

    /// Another virtual CPU of the same machine that waits for this host CPU.
    fn sibling(&self, index: usize) -> Option<usize> {
        let vm = &self.slots.get(index)?.vm;
        let mut others = self.slots.iter().enumerate().cycle().skip(index.saturating_add(1));
        others
            .by_ref()
            .take(self.slots.len().saturating_sub(1))
            .find(|(other, slot)| Arc::ptr_eq(&slot.vm, vm) && self.queue.is_runnable(*other))
            .map(|(other, _)| other)
    }

    /// Ticks of so many microseconds.
    fn ticks(&self, microseconds: u32) -> u64 {
        let ticks = u128::from(microseconds)
            .saturating_mul(u128::from(self.hypervisor.backend.frequency()))
            .checked_div(1_000_000)
            .unwrap_or(0);
        u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
    }

    /// Whether somebody has to look after the console and the uplinks.
    #[inline]
    fn wants_attention(&self) -> bool {
        self.attention_due.is_some() || self.hypervisor.wants_attention(self.id)
    }

    #[cold]
    fn attend(&mut self) {
        self.attention_due = self.hypervisor.attend(self.id);
    }

    fn mail_waits(&self) -> bool {
        self.hypervisor.mailbox(self.id).is_some_and(|mailbox| mailbox.is_full())
    }

    /// Charges the time since `began` and looks who wants to run.
    fn settle(&mut self, index: usize, began: &mut Instant, now: Instant) {
        self.queue.charge(index, now.0.saturating_sub(began.0));
        *began = now;
        self.refresh(now, Some(index));
    }

    /// Arms the timer for the end of the slice or the first sleeper's timer.
    fn arm(&mut self, index: usize, now: Instant) {
        let sleeper = self.earliest_deadline(Some(index));
        let contended = self.queue.contended(index) || !self.preparing.is_empty();
        let slice = self.queue.slice_end(index, now);
        let slice = contended.then_some(slice);
        let first = [sleeper, slice, self.attention_due].into_iter().flatten().min();
        self.hypervisor.backend.set_timer(first);
    }

    /// Idles with the virtual CPU still loaded, so that a short wait costs no
    /// switch. True when it goes on, false when it has to be taken off.
    fn wait_in_place(&mut self, index: usize, began: &mut Instant) -> bool {
        let backend = &self.hypervisor.backend;
        let shared = self.slots.len() > 1;
        loop {
            if self.wants_attention() {
                self.attend();
            }
            let Some(slot) = self.slots.get_mut(index) else { return false };
            // The flag is taken before the state is read that a waker changes.
            slot.vcpu.handle().take_wake();
            // May serve a kick. Whatever a kick announces is therefore looked
            // at after this and before idling.
            let pending = slot.vcpu.interrupt_pending();
            if pending {
                slot.wait = Wait::Nothing;
            }
            // A power-down suspend ends with a new start.
            let goes_on = pending && slot.resume.is_none();
            if slot.vm.is_stopping() || self.mail_waits() {
                return false;
            }
            if pending && !(goes_on && shared) {
                return goes_on;
            }
            if shared {
                let now = backend.now();
                self.settle(index, began, now);
                if pending {
                    self.arm(index, now);
                    return self.queue.pick(now) == Some(index);
                }
            }
            let Some(slot) = self.slots.get_mut(index) else { return false };
            if self.queue.contended(index) || !self.preparing.is_empty() {
                return false;
            }
            // A waker whose kick has been served must not wait for another.
            if slot.vcpu.handle().take_wake() {
                continue;
            }
            slot.vcpu.handle().end(backend.now());
            let sleeper = self.earliest_deadline(Some(index));
            backend.set_timer([sleeper, self.attention_due].into_iter().flatten().min());
            backend.idle();
            // Time spent idle is nobody's.
            *began = backend.now();
            if let Some(slot) = self.slots.get(index) {
                slot.vcpu.handle().begin(*began);
            }
        }
    }
}
