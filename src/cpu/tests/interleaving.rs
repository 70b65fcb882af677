//! All interleavings of host CPUs that a property test finds: no wake-up is
//! lost, and no virtual CPU outlives its machine.

use std::sync::atomic::Ordering::SeqCst;

use proptest::prelude::*;

use super::power::cpu_on;
use crate::config::MachineConfig;
use crate::exit::{Exit, PowerRequest};
use crate::fake::vcpu::{Event, Op};
use crate::fake::world::{World, vm};
use crate::vm::State;

const OFF: Op = Op::Exit(Exit::Power(PowerRequest::SystemOff));
const RESET: Op = Op::Exit(Exit::Power(PowerRequest::SystemReset));

fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..400)
}

/// Virtual CPUs that hand a token round; who has it wakes the next one. Beside
/// that, each disturbs some other one for nothing.
fn ring(vcpus: usize, rounds: usize, last: Op) -> (Vec<Op>, Vec<(u64, Vec<Op>)>) {
    let entry = |vcpu: usize| 0x100 + vcpu as u64;
    let mut first: Vec<_> = (1..vcpus).map(|vcpu| Op::Exit(cpu_on(vcpu, entry(vcpu)))).collect();
    for _ in 0..rounds {
        first.extend([Op::Raise(1), Op::Disturb(vcpus - 1), Op::Await]);
    }
    first.push(last);
    let others = (1..vcpus).map(|vcpu| {
        let next = (vcpu + 1) % vcpus;
        let other = (vcpu + vcpus - 1) % vcpus;
        let round = vec![Op::Await, Op::Disturb(other), Op::Raise(next), Op::Repeat];
        (entry(vcpu), round)
    });
    (first, others.collect())
}

fn borrow(others: &[(u64, Vec<Op>)]) -> Vec<(u64, &[Op])> {
    others.iter().map(|(entry, ops)| (*entry, &ops[..])).collect()
}

fn config() -> ProptestConfig {
    // Miri is a thousand times as slow.
    let cases = if cfg!(miri) { 2 } else { 200 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_wake_up_is_lost(choices in choices(), cpus in 1usize..4, vcpus in 2usize..5) {
        let (first, others) = ring(vcpus, 4, OFF);
        let config = MachineConfig::new(vec![vm("ring", vcpus as u32)]);
        let world =
            World::interleave(cpus, choices, &config, &[(&[&first], &borrow(&others))]);
        prop_assert!(world.host.powered_off.load(SeqCst), "the token is lost");
        prop_assert_eq!(world.vms[0].state(), State::Stopped);
    }

    #[test]
    fn a_reset_at_any_moment_restarts_the_machine_once(choices in choices(), cpus in 1usize..4) {
        let (first, others) = ring(3, 1, RESET);
        let (second, _) = ring(3, 1, OFF);
        let config = MachineConfig::new(vec![vm("ring", 3), vm("other", 1)]);
        let other = [Op::Timer(30), Op::Await, Op::Timer(30), Op::Await, OFF];
        let world = World::interleave(
            cpus,
            choices,
            &config,
            &[(&[&first, &second], &borrow(&others)), (&[&other], &[])],
        );
        prop_assert!(world.host.powered_off.load(SeqCst));
        prop_assert_eq!(world.vms[0].machine.resets.load(SeqCst), 2);
        let events = world.vms[1].machine.take_trace();
        prop_assert_eq!(events.iter().filter(|e| **e == Event::Interrupt(0)).count(), 2);
    }

    #[test]
    fn two_that_stop_the_machine_at_once_stop_it_once(choices in choices(), cpus in 2usize..4) {
        let first = [Op::Exit(cpu_on(1, 0x100)), Op::Work(3), RESET];
        let second = [Op::Work(2), RESET];
        let config = MachineConfig::new(vec![vm("one", 2)]);
        let world = World::interleave(
            cpus,
            choices,
            &config,
            &[(&[&first, &[OFF]], &[(0x100, &second)])],
        );
        prop_assert!(world.host.powered_off.load(SeqCst));
        prop_assert_eq!(world.vms[0].machine.resets.load(SeqCst), 2);
    }
}
