use super::*;
use alloc::vec::Vec;
use bunshin::bus::Width;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Mutex;

const CLOCK: TimerClock = TimerClock { tsc_khz: 2_000_000, bus_khz: 1_000_000 };
const ENABLE: u64 = 0x1ff;
const X2APIC: u64 = DEFAULT_ADDRESS | 0xc00;

const EOI: u32 = 0x80b;
const SVR: u32 = 0x80f;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const LVT_ERROR: u32 = 0x837;
const TICR: u32 = 0x838;
const TCCR: u32 = 0x839;
const TDCR: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;

fn xapic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0, CLOCK, 40);
    apic.write_window(0xf0, Width::Word, ENABLE, 0);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0, CLOCK, 40);
    apic.write_base(X2APIC).unwrap();
    apic.write_msr(SVR, ENABLE, 0).unwrap();
    apic
}

fn fixed(vector: u8) -> Message {
    Message { destination: Destination::All, delivery: Delivery::Fixed, vector, level: false }
}

#[test]
fn an_interrupt_goes_from_request_to_service_to_end() {
    let mut apic = x2apic(0);
    assert!(apic.mailbox().post(&fixed(0x41)));
    assert_eq!(apic.pending_vector(), Some(0x41));
    assert_eq!(apic.read_msr(0x822, 0), Ok(2), "IRR");
    assert!(apic.accept(0x41));
    assert!(!apic.accept(0x41), "it is no longer requested");
    assert_eq!(apic.read_msr(0x812, 0), Ok(2), "ISR");
    assert_eq!(apic.read_msr(0x80a, 0), Ok(0x40), "PPR");
    assert!(apic.mailbox().post(&fixed(0x4f)));
    assert_eq!(apic.pending_vector(), None, "the same class does not interrupt itself");
    assert_eq!(apic.highest_request(), Some(0x4f));
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(Effect::None));
    assert_eq!(apic.pending_vector(), Some(0x4f));
}

#[test]
fn only_a_level_triggered_vector_tells_the_ioapic_of_its_end() {
    let mut apic = x2apic(0);
    for level in [true, false, true] {
        apic.mailbox().post(&Message { level, ..fixed(0x31) });
        assert_eq!(apic.pending_vector(), Some(0x31));
        assert_eq!(apic.read_msr(0x819, 0), Ok(u64::from(level) << 17), "TMR");
        apic.accept(0x31);
        let expected = if level { Effect::EndOfInterrupt { vector: 0x31 } } else { Effect::None };
        assert_eq!(apic.write_msr(EOI, 0, 0), Ok(expected));
    }
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(Effect::None), "nothing is in service");
}

#[test]
fn a_disabled_apic_takes_signals_but_no_vectors() {
    let mut apic = LocalApic::new(0, true, CLOCK, 40);
    assert!(!apic.mailbox().post(&fixed(0x40)));
    assert!(apic.mailbox().post(&Message { delivery: Delivery::Nmi, ..fixed(0) }));
    assert_eq!(apic.take_signal(), Some(Signal::Nmi));
    assert_eq!(apic.take_signal(), None);
    apic.write_window(0xf0, Width::Word, ENABLE, 0);
    apic.mailbox().post(&fixed(0x40));
    apic.write_window(0xf0, Width::Word, 0xff, 0);
    assert_eq!(apic.pending_vector(), None, "a request waits while the APIC is disabled");
}

#[test]
fn disabling_by_software_masks_every_lvt_entry() {
    let mut apic = x2apic(0);
    apic.write_msr(LVT_TIMER, 0x20, 0).unwrap();
    apic.write_msr(SVR, 0xff, 0).unwrap();
    assert_eq!(apic.read_msr(LVT_TIMER, 0), Ok(0x1_0020));
    apic.write_msr(LVT_TIMER, 0x20, 0).unwrap();
    assert_eq!(apic.read_msr(LVT_TIMER, 0), Ok(0x1_0020), "the mask cannot be lifted");
}

#[test]
fn x2apic_registers_fault_exactly_where_they_are_reserved() {
    let readable = |msr: u32| {
        matches!(msr & 0xff,
            2 | 3 | 8 | 0xa | 0xd | 0xf | 0x10..=0x28 | 0x30 | 0x32..=0x39 | 0x3e)
    };
    let writable =
        |msr: u32| matches!(msr & 0xff, 8 | 0xb | 0xf | 0x28 | 0x30 | 0x32..=0x38 | 0x3e | 0x3f);
    let mut apic = x2apic(0);
    for msr in X2APIC_FIRST..=X2APIC_LAST {
        assert_eq!(apic.read_msr(msr, 0).is_ok(), readable(msr), "read {msr:#x}");
        assert_eq!(apic.write_msr(msr, 0, 0).is_ok(), writable(msr), "write {msr:#x}");
    }
    let mut apic = xapic(0);
    for msr in X2APIC_FIRST..=X2APIC_LAST {
        assert!(apic.read_msr(msr, 0).is_err() && apic.write_msr(msr, 0, 0).is_err());
    }
}

#[test]
fn reserved_bits_of_x2apic_registers_fault() {
    let mut apic = x2apic(0);
    for (msr, value) in [
        (0x808, 0x100),
        (EOI, 1),
        (SVR, 1 << 12),
        (ESR, 1),
        (ICR, 1 << 12),
        (ICR, 1 << 13),
        (ICR, 1 << 20),
        (LVT_TIMER, 3 << 19),
        (LVT_ERROR, 1 << 8),
        (LVT_LINT0, 1 << 17),
        (TICR, 1 << 32),
        (TDCR, 0b100),
        (SELF_IPI, 0x100),
    ] {
        assert!(apic.write_msr(msr, value, 0).is_err(), "{msr:#x} = {value:#x}");
    }
}

#[test]
fn identifiers_follow_the_interface() {
    for id in [0, 1, 17, 254] {
        let mut old = xapic(id);
        assert_eq!(old.read_window(0x20, Width::Word, 0), u64::from(id) << 24);
        assert_eq!(old.read_window(0x23, Width::Byte, 0), u64::from(id), "bytes are addressable");
        let mut new = x2apic(id);
        assert_eq!(new.read_msr(0x802, 0), Ok(id.into()));
        let logical = (id / 16) << 16 | 1 << (id % 16);
        assert_eq!(new.read_msr(0x80d, 0), Ok(logical.into()));
        assert_eq!(new.read_window(0x30, Width::Word, 0), 0x5_0014);
    }
}

#[test]
fn the_window_ignores_what_is_not_a_register() {
    let mut apic = xapic(0);
    apic.write_window(0x370, Width::Word, 0xfe, 0);
    for offset in [0x24, 0x2c] {
        assert_eq!(apic.read_window(offset, Width::Word, 0), 0);
    }
    for offset in [0x0, 0x40, 0x3f0, 0xff0] {
        assert_eq!(apic.read_window(offset, Width::Word, 0), 0);
        apic.write_window(0x280, Width::Word, 0, 0);
        assert_eq!(apic.read_window(0x280, Width::Word, 0), 0x80, "illegal register {offset:#x}");
        assert_eq!(apic.pending_vector(), Some(0xfe), "and the error interrupt fires");
    }
    apic.write_window(0x80, Width::Byte, 0x50, 0);
    apic.write_window(0x84, Width::Word, 0x50, 0);
    assert_eq!(apic.cr8(), 0);
}

#[test]
fn cr8_is_the_class_of_the_task_priority() {
    let mut apic = x2apic(0);
    apic.write_msr(0x808, 0x5b, 0).unwrap();
    assert_eq!(apic.cr8(), 5);
    apic.set_cr8(5);
    assert_eq!(apic.read_msr(0x808, 0), Ok(0x5b), "the same class keeps the low bits");
    apic.set_cr8(7);
    assert_eq!(apic.read_msr(0x808, 0), Ok(0x70));
    apic.mailbox().post(&fixed(0x7f));
    assert_eq!(apic.pending_vector(), None);
    apic.set_cr8(6);
    assert_eq!(apic.pending_vector(), Some(0x7f));
}

#[test]
fn the_command_register_makes_the_message_that_it_says() {
    let all = |delivery, vector, destination| {
        Effect::Send(Message { destination, delivery, vector, level: false })
    };
    for (command, expected) in [
        (0x0000_0003_0000_0041, all(Delivery::Fixed, 0x41, Destination::Physical(3))),
        (0x0001_0003_0000_0841, all(Delivery::Fixed, 0x41, Destination::Logical(0x1_0003))),
        (0x0000_0001_0000_0141, all(Delivery::LowestPriority, 0x41, Destination::Physical(1))),
        (0xffff_ffff_0000_0041, all(Delivery::Fixed, 0x41, Destination::All)),
        (0x0000_0000_0008_0041, all(Delivery::Fixed, 0x41, Destination::All)),
        (0x0000_0000_000c_0400, all(Delivery::Nmi, 0, Destination::AllBut(0))),
        (0x0000_0001_0000_4500, all(Delivery::Init, 0, Destination::Physical(1))),
        (0x0000_0001_0000_8500, Effect::None),
        (0x0000_0001_0000_069a, all(Delivery::StartUp, 0x9a, Destination::Physical(1))),
        (0x0000_0001_0000_0300, Effect::None),
        (0x0000_0001_0000_000f, Effect::None),
    ] {
        assert_eq!(x2apic(0).write_msr(ICR, command, 0), Ok(expected), "{command:#x}");
    }
    let mut old = xapic(2);
    old.write_window(0x310, Width::Word, 0xff00_0000, 0);
    let sent = old.write_window(0x300, Width::Word, 0x41, 0);
    assert_eq!(sent, all(Delivery::Fixed, 0x41, Destination::All));
    old.write_window(0x310, Width::Word, 0x0100_0000, 0);
    let sent = old.write_window(0x300, Width::Word, 0x1841, 0);
    assert_eq!(sent, all(Delivery::Fixed, 0x41, Destination::Logical(1)));
    assert_eq!(old.read_window(0x300, Width::Word, 0), 0x841, "delivery is always idle");
}

#[test]
fn a_self_interrupt_needs_no_bus() {
    let mut apic = x2apic(0);
    apic.write_msr(SELF_IPI, 0x55, 0).unwrap();
    apic.write_msr(ICR, 0x4_0066, 0).unwrap();
    assert_eq!(apic.pending_vector(), Some(0x66));
    apic.accept(0x66);
    apic.write_msr(EOI, 0, 0).unwrap();
    assert_eq!(apic.pending_vector(), Some(0x55));
}

#[test]
fn illegal_vectors_are_errors_of_the_sender() {
    let mut apic = x2apic(0);
    apic.write_msr(LVT_ERROR, 0xe0, 0).unwrap();
    apic.write_msr(ICR, 0x8_000f, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(0), "not latched yet");
    apic.write_msr(ESR, 0, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(0x20));
    assert_eq!(apic.pending_vector(), Some(0xe0));
    apic.write_msr(ESR, 0, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(0));
    // A timer and an error entry that are both illegal end in a report, not in a loop.
    apic.write_msr(LVT_ERROR, 1, 0).unwrap();
    apic.write_msr(LVT_TIMER, 2, 0).unwrap();
    apic.write_msr(TICR, 1, 0).unwrap();
    apic.advance(1000);
    apic.write_msr(ESR, 0, 0).unwrap();
    assert_eq!(apic.read_msr(ESR, 0), Ok(0x40));
}

#[test]
fn init_then_start_up_starts_a_waiting_processor_once() {
    let mut apic = xapic(1);
    let send = |apic: &LocalApic, delivery, vector| {
        apic.mailbox().post(&Message { delivery, vector, ..fixed(0) })
    };
    assert_eq!(apic.activity(), Activity::WaitForSipi);
    send(&apic, Delivery::Nmi, 0);
    assert_eq!(apic.take_signal(), None, "no NMI before the start");
    send(&apic, Delivery::Init, 0);
    send(&apic, Delivery::StartUp, 0x9a);
    send(&apic, Delivery::StartUp, 0x12);
    assert_eq!(apic.take_signal(), Some(Signal::Init));
    assert_eq!(apic.read_window(0xf0, Width::Word, 0), 0xff, "registers are reset");
    assert_eq!(apic.take_signal(), Some(Signal::StartUp { address: 0x9_a000 }));
    assert_eq!(apic.activity(), Activity::Active);
    send(&apic, Delivery::StartUp, 0x12);
    assert_eq!(apic.take_signal(), None, "the second one is ignored");
    send(&apic, Delivery::StartUp, 0x12);
    send(&apic, Delivery::Init, 0);
    assert_eq!(apic.take_signal(), Some(Signal::Init));
    assert_eq!(apic.take_signal(), None, "INIT undoes an earlier start-up");
    assert_eq!(apic.activity(), Activity::WaitForSipi);
}

#[test]
fn init_keeps_the_mode_and_restarts_the_bootstrap_processor() {
    let mut apic = x2apic(0);
    apic.mailbox().post(&Message { delivery: Delivery::Init, ..fixed(0) });
    assert_eq!(apic.take_signal(), Some(Signal::Init));
    assert_eq!((apic.activity(), apic.mode()), (Activity::Active, Mode::X2Apic));
    apic.reset();
    assert_eq!(apic.mode(), Mode::XApic);
}

#[test]
fn a_one_shot_timer_counts_down_and_fires_once() {
    let mut apic = x2apic(0);
    apic.write_msr(TDCR, 0b1011, 0).unwrap();
    apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
    assert_eq!(apic.write_msr(TICR, 1000, 5000), Ok(Effect::Timer));
    assert_eq!(apic.next_deadline(), Some(7000), "the bus runs at half the TSC");
    assert_eq!(apic.read_msr(TCCR, 6000), Ok(500));
    assert_eq!(apic.pending_vector(), None);
    assert_eq!(apic.read_msr(TCCR, 7000), Ok(0));
    assert_eq!(apic.pending_vector(), Some(0xec));
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn the_divisor_field_covers_1_to_128() {
    for (field, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)]
    {
        let mut apic = x2apic(0);
        apic.write_msr(LVT_TIMER, 0xec, 0).unwrap();
        apic.write_msr(TDCR, field, 0).unwrap();
        apic.write_msr(TICR, 100, 0).unwrap();
        assert_eq!(apic.next_deadline(), Some(200 * divisor), "{field:#b}");
        apic.write_msr(TDCR, 11, 100 * divisor).unwrap();
        assert_eq!(apic.next_deadline(), Some(100 * divisor + 100), "the count goes on");
    }
}

#[test]
fn a_periodic_timer_keeps_its_phase_and_counts_missed_periods_once() {
    let mut apic = x2apic(0);
    apic.write_msr(TDCR, 0b1011, 0).unwrap();
    apic.write_msr(LVT_TIMER, 0x2_00ec, 0).unwrap();
    apic.write_msr(TICR, 1_000_000, 0).unwrap();
    for (now, next) in [(2_000_000, 4_000_000), (4_000_100, 6_000_000), (11_000_000, 12_000_000)] {
        apic.advance(now);
        assert_eq!(apic.next_deadline(), Some(next));
        assert_eq!(apic.pending_vector(), Some(0xec));
        apic.accept(0xec);
        apic.write_msr(EOI, 0, now).unwrap();
        assert_eq!(apic.pending_vector(), None);
    }
    apic.write_msr(TICR, 1, 0).unwrap();
    assert_eq!(apic.next_deadline(), Some(400_000), "no shorter than 200 us");
}

#[test]
fn the_deadline_timer_fires_when_the_time_stamp_passes() {
    let mut apic = x2apic(0);
    assert_eq!(apic.write_deadline(100), Effect::None, "wrong mode");
    apic.write_msr(TICR, 1000, 0).unwrap();
    apic.write_msr(LVT_TIMER, 0x4_00ec, 0).unwrap();
    assert_eq!(apic.next_deadline(), None, "the change of mode disarms");
    apic.write_msr(TICR, 1000, 0).unwrap();
    assert_eq!(apic.next_deadline(), None, "the initial count has no meaning now");
    assert_eq!(apic.write_deadline(100), Effect::Timer);
    assert_eq!(apic.read_deadline(99), 100);
    assert_eq!(apic.pending_vector(), None);
    assert_eq!(apic.read_deadline(100), 0);
    assert_eq!(apic.pending_vector(), Some(0xec));
    apic.write_deadline(200);
    apic.write_deadline(0);
    assert_eq!(apic.next_deadline(), None);
    apic.write_deadline(300);
    apic.write_msr(LVT_TIMER, 0x2_00ec, 250).unwrap();
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn what_expires_under_a_mask_is_lost() {
    let mut apic = x2apic(0);
    apic.write_msr(LVT_TIMER, 0x1_00ec, 0).unwrap();
    apic.write_msr(TICR, 10, 0).unwrap();
    assert_eq!(apic.next_deadline(), None);
    apic.write_msr(LVT_TIMER, 0xec, 1000).unwrap();
    assert_eq!((apic.pending_vector(), apic.next_deadline()), (None, None));
}

#[test]
fn the_8259_pair_reaches_lint0_or_a_disabled_apic() {
    let mut apic = xapic(0);
    assert!(!apic.takes_external_interrupts());
    apic.write_window(0x350, Width::Word, 0x700, 0);
    assert!(apic.takes_external_interrupts());
    apic.write_window(0x350, Width::Word, 0x1_0700, 0);
    assert!(!apic.takes_external_interrupts());
    apic.write_base(DEFAULT_ADDRESS).unwrap();
    assert!(apic.takes_external_interrupts());
}

#[derive(Default)]
struct Woken(Mutex<Vec<usize>>);

impl Wake for &Woken {
    fn wake(&self, vcpu: usize) {
        self.0.lock().unwrap().push(vcpu);
    }
}

#[test]
fn the_bus_reaches_whom_the_destination_names() {
    let xapics = |cluster: bool| -> Vec<LocalApic> {
        (0..4u32)
            .map(|id| {
                let mut apic = xapic(id);
                if cluster {
                    apic.write_window(0xe0, Width::Word, 0x0fff_ffff, 0);
                    // Clusters 0 and 1 of two processors each.
                    let logical = u64::from((id / 2) << 4 | 1 << (id % 2));
                    apic.write_window(0xd0, Width::Word, logical << 24, 0);
                } else {
                    apic.write_window(0xd0, Width::Word, 1 << (24 + id), 0);
                }
                apic
            })
            .collect()
    };
    let new: Vec<LocalApic> = [0, 1, 16, 17].map(x2apic).into();
    let machines = [xapics(false), xapics(true), new];
    use Destination::*;
    for (machine, destination, expected) in [
        (0, Physical(2), &[2][..]),
        (0, Physical(9), &[]),
        (0, All, &[0, 1, 2, 3]),
        (0, AllBut(1), &[0, 2, 3]),
        (0, Logical(0b1010), &[1, 3]),
        (0, Logical(0xff), &[0, 1, 2, 3]),
        (1, Logical(0x11), &[2]),
        (1, Logical(0x03), &[0, 1]),
        (1, Logical(0xf2), &[1, 3]),
        (2, Physical(16), &[2]),
        (2, Physical(2), &[]),
        (2, Logical(0x0001_0003), &[2, 3]),
        (2, Logical(0x0000_0002), &[1]),
    ] {
        let woken = Woken::default();
        let mailboxes = machines[machine].iter().map(|apic| apic.mailbox().clone()).collect();
        let bus = ApicBus::new(mailboxes, &woken);
        bus.send(&Message { destination, ..fixed(0x40) });
        assert_eq!(*woken.0.lock().unwrap(), expected, "{machine} {destination:?}");
    }
}

#[test]
fn lowest_priority_goes_to_the_least_busy_and_equals_take_turns() {
    let mut apics: Vec<LocalApic> = (0..3).map(x2apic).collect();
    let woken = Woken::default();
    let bus = ApicBus::new(apics.iter().map(|apic| apic.mailbox().clone()).collect(), &woken);
    let message = Message { delivery: Delivery::LowestPriority, ..fixed(0x40) };
    apics[1].set_cr8(3);
    for _ in 0..4 {
        bus.send(&message);
    }
    let mut taken = woken.0.lock().unwrap().clone();
    assert!(taken.contains(&0) && taken.contains(&2) && !taken.contains(&1), "{taken:?}");
    taken.clear();
    apics[0].set_cr8(4);
    apics[2].set_cr8(4);
    woken.0.lock().unwrap().clear();
    bus.send(&message);
    assert_eq!(*woken.0.lock().unwrap(), [1]);
}

#[test]
fn posts_from_other_threads_are_all_seen() {
    let mut apic = x2apic(0);
    let mailbox = apic.mailbox().clone();
    let sender = std::thread::spawn(move || {
        for vector in 16..=255 {
            mailbox.post(&fixed(vector));
        }
    });
    let mut seen = BTreeSet::new();
    while seen.len() < 240 {
        if let Some(vector) = apic.pending_vector() {
            apic.accept(vector);
            apic.write_msr(EOI, 0, 0).unwrap();
            seen.insert(vector);
        }
    }
    sender.join().unwrap();
    assert!(!apic.mailbox().is_posted());
}

#[derive(Debug, Clone)]
enum Step {
    Post(u8, bool),
    Priority(u8),
    AcceptPending,
    End,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (16u8.., any::<bool>()).prop_map(|(vector, level)| Step::Post(vector, level)),
        1 => any::<u8>().prop_map(Step::Priority),
        3 => Just(Step::AcceptPending),
        2 => Just(Step::End),
    ]
}

/// The priority model as the manual words it, over plain lists.
#[derive(Default)]
struct Model {
    requested: BTreeSet<u8>,
    in_service: BTreeSet<u8>,
    level: BTreeSet<u8>,
    task_priority: u8,
}

impl Model {
    fn pending(&self) -> Option<u8> {
        let serving = self.in_service.last().map_or(0, |vector| vector / 16);
        let class = serving.max(self.task_priority / 16);
        self.requested.last().copied().filter(|vector| vector / 16 > class)
    }
}

proptest! {
    #[test]
    fn priorities_agree_with_the_model(steps in proptest::collection::vec(step(), 0..300)) {
        let (mut apic, mut model) = (x2apic(0), Model::default());
        for step in steps {
            match step {
                Step::Post(vector, level) => {
                    apic.mailbox().post(&Message { level, ..fixed(vector) });
                    model.requested.insert(vector);
                    if level { model.level.insert(vector); } else { model.level.remove(&vector); }
                }
                Step::Priority(priority) => {
                    apic.write_msr(0x808, priority.into(), 0).unwrap();
                    model.task_priority = priority;
                }
                Step::AcceptPending => {
                    if let Some(vector) = apic.pending_vector() {
                        prop_assert!(apic.accept(vector));
                        model.requested.remove(&vector);
                        model.in_service.insert(vector);
                    }
                }
                Step::End => {
                    apic.highest_request();
                    let ended = model.in_service.pop_last();
                    let expected = match ended {
                        Some(vector) if model.level.contains(&vector) => {
                            Effect::EndOfInterrupt { vector }
                        }
                        _ => Effect::None,
                    };
                    prop_assert_eq!(apic.write_msr(EOI, 0, 0), Ok(expected));
                }
            }
            prop_assert_eq!(apic.pending_vector(), model.pending());
            prop_assert_eq!(apic.highest_request(), model.requested.last().copied());
        }
    }

    #[test]
    fn no_access_makes_the_apic_panic(
        accesses in proptest::collection::vec(
            (any::<bool>(), 0u32..0x1000, any::<u64>(), any::<u32>()), 0..100),
        mode in any::<bool>(),
    ) {
        let mut apic = if mode { x2apic(1) } else { xapic(1) };
        for (write, offset, value, now) in accesses {
            let now = u64::from(now) << 16;
            match (mode, write) {
                (true, true) => { let _ = apic.write_msr(0x800 + offset % 0x100, value, now); }
                (true, false) => { let _ = apic.read_msr(0x800 + offset % 0x100, now); }
                (false, true) => { apic.write_window(offset.into(), Width::Word, value, now); }
                (false, false) => { apic.read_window(offset.into(), Width::Double, now); }
            }
            apic.write_deadline(value);
            apic.advance(now);
            apic.pending_vector();
            prop_assert!(apic.next_deadline().is_none_or(|deadline| deadline > now || value <= now));
        }
    }
}
