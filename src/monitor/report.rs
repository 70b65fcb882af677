//! Tables for people, and lines for programs.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::address::{CpuId, Instant};
use crate::backend::Backend;
use crate::hypervisor::Hypervisor;
use crate::statistics::Total;
use crate::vcpu::Power;
use crate::virtio::balloon::PAGE;
use crate::vm::{State, Vm};

/// Exits that `trace` shows for each host CPU.
const SHOWN: usize = 24;

/// What a virtual machine is doing, as the end of a sentence.
pub(super) const fn state(state: State) -> &'static str {
    match state {
        State::Created => "has not been started",
        State::Stopped => "is off",
        State::Running => "is running",
        State::Paused(_) => "is paused",
        State::Draining(_) | State::Changing => "is changing",
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Stopped => "off",
        State::Running => "running",
        State::Paused(_) => "paused",
        State::Draining(_) | State::Changing => "changing",
    }
}

/// Ticks as seconds with three decimals.
fn seconds(ticks: u64, frequency: u64) -> String {
    let milliseconds = u128::from(ticks)
        .saturating_mul(1000)
        .checked_div(u128::from(frequency))
        .unwrap_or_default();
    let (whole, rest) = (milliseconds.checked_div(1000), milliseconds.checked_rem(1000));
    format!("{}.{:03}", whole.unwrap_or_default(), rest.unwrap_or_default())
}

/// A writer of lines; text in memory takes everything.
macro_rules! line {
    ($text:expr, $($part:tt)*) => {{
        let _ = writeln!($text, $($part)*);
    }};
}

pub(super) fn machines<B: Backend>(hypervisor: &Hypervisor<B>, vms: &[Arc<Vm<B>>]) -> String {
    let (now, frequency) = (hypervisor.backend.now(), hypervisor.backend.frequency());
    let mut text = String::new();
    line!(text, " #  {:<24}  STATE     VCPUS  MEMORY     STARTS  TIME       HOST CPUS", "NAME");
    for (place, vm) in vms.iter().enumerate() {
        let time = vm.vcpus.iter().map(|vcpu| vcpu.time(now)).fold(0u64, u64::saturating_add);
        let homes: Vec<String> = vm.vcpus.iter().map(|vcpu| format!("{}", vcpu.home().0)).collect();
        line!(
            text,
            "{:2}  {:<24}  {:<8}  {:5}  {:5} MiB  {:6}  {:>8} s {}",
            place.saturating_add(1),
            vm.config.name,
            word(vm.state()),
            vm.vcpus.len(),
            vm.present_memory() >> 20,
            vm.starts(),
            seconds(time, frequency),
            homes.join(",")
        );
    }
    text
}

pub(super) fn statistics<B: Backend>(hypervisor: &Hypervisor<B>, vms: &[Arc<Vm<B>>]) -> String {
    let (now, frequency) = (hypervisor.backend.now(), hypervisor.backend.frequency());
    let mut text = String::new();
    for vm in vms {
        let exits = Total(vm.vcpus.iter().map(|vcpu| &vcpu.exits));
        line!(text, "vm \"{}\" {}; exits: {exits}", vm.config.name, state(vm.state()));
        for vcpu in &vm.vcpus {
            let power = match vcpu.power() {
                Power::Off => "off",
                Power::OnPending { .. } => "starting",
                Power::On => "on",
            };
            line!(
                text,
                "  vcpu {} on host CPU {}, {power}, {} s; exits: {}",
                vcpu.id().0,
                vcpu.home().0,
                seconds(vcpu.time(now), frequency),
                Total([&vcpu.exits].into_iter())
            );
        }
        for (number, port) in vm.ports().iter().enumerate() {
            line!(text, "  net {number}: {}", port.counters());
        }
    }
    text
}

pub(super) fn uplinks<B: Backend>(hypervisor: &Hypervisor<B>) -> String {
    let mut text = String::new();
    for (number, counters) in hypervisor.uplinks.counters() {
        line!(text, "uplink to network device {number}: {counters}");
    }
    text
}

pub(super) fn memory<B: Backend>(hypervisor: &Hypervisor<B>, vms: &[Arc<Vm<B>>]) -> String {
    let mut text = String::new();
    line!(text, "free      {:8} KiB", hypervisor.backend.free_memory() >> 10);
    for vm in vms {
        let (present, all) = (vm.present_memory() >> 10, vm.config.memory >> 10);
        let name = &vm.config.name;
        match vm.balloon() {
            None => line!(text, "vm        {present:8} KiB  {name}"),
            Some(balloon) => {
                let target = all.saturating_sub(balloon.target().saturating_mul(PAGE >> 10));
                line!(
                    text,
                    "vm        {present:8} KiB  {name}, of {all} KiB, asked for {target} KiB"
                );
            }
        }
    }
    text
}

/// The last exits of one host CPU.
pub(super) fn trace<B: Backend>(
    hypervisor: &Hypervisor<B>,
    vms: &[Arc<Vm<B>>],
    cpu: CpuId,
    raw: bool,
) -> String {
    let Some(recorder) = hypervisor.recorder(cpu) else { return String::new() };
    let events = recorder.events();
    let (now, frequency) = (hypervisor.backend.now(), hypervisor.backend.frequency());
    let name = |vm: usize| vms.get(vm).map_or("?", |vm| &vm.config.name);
    let mut text = String::new();
    if raw {
        line!(text, "trace cpu {} frequency {frequency} now {}", cpu.0, now.0);
        for event in &events {
            line!(
                text,
                "{} {} {} {} {:#x} {:#x}",
                event.time.0,
                name(event.vm),
                event.vcpu,
                event.kind.name(),
                event.cause,
                event.address
            );
        }
        return text;
    }
    line!(text, "host CPU {}: seconds ago, vm, vcpu, exit, cause, address", cpu.0);
    let from = events.len().saturating_sub(SHOWN);
    for event in events.get(from..).unwrap_or_default() {
        let Instant(time) = event.time;
        line!(
            text,
            "  {:>10}  {} {}  {:<20}  {:#x} {:#x}",
            seconds(now.0.saturating_sub(time), frequency),
            name(event.vm),
            event.vcpu,
            event.kind.name(),
            event.cause,
            event.address
        );
    }
    text
}
