use super::*;
use crate::machine::clock::fake::FakeLine;
use proptest::prelude::*;

struct Machine {
    output: Arc<FakeLine>,
    pic: Arc<Pic>,
    ports: [PicPorts; 2],
}

impl Machine {
    fn new() -> Self {
        let output = Arc::new(FakeLine::default());
        let pic = Arc::new(Pic::new(output.clone()));
        let ports = [PicPorts::primary(pic.clone()), PicPorts::secondary(pic.clone())];
        Machine { output, pic, ports }
    }

    /// As Linux does: vectors 0x30 and 0x38, nothing masked.
    fn initialised() -> Self {
        let machine = Machine::new();
        for (chip, words) in [(0, [0x30, 0x04, 0x01]), (1, [0x38, 0x02, 0x01])] {
            machine.write(chip, 0, 0x11);
            words.into_iter().for_each(|word| machine.write(chip, 1, word));
            machine.write(chip, 1, 0);
        }
        machine
    }

    fn write(&self, chip: usize, offset: u64, value: u64) {
        self.ports[chip].write(offset, Width::Byte, value).unwrap();
    }

    fn read(&self, chip: usize, offset: u64) -> u64 {
        self.ports[chip].read(offset, Width::Byte).unwrap()
    }
}

#[test]
fn linux_finds_the_chip_by_its_mask_register() {
    let machine = Machine::new();
    machine.write(1, 1, 0xff);
    machine.write(0, 1, 0xfb);
    assert_eq!(machine.read(0, 1), 0xfb);
}

#[test]
fn an_interrupt_is_acknowledged_served_and_ended() {
    let machine = Machine::initialised();
    machine.pic.set_line(4, true);
    assert!(machine.output.level() && machine.pic.is_pending());
    assert_eq!(machine.read(0, 0), 0x10, "IRR");
    assert_eq!(machine.pic.acknowledge(), 0x34);
    assert!(!machine.output.level());
    machine.write(0, 0, 0x0b);
    assert_eq!(machine.read(0, 0), 0x10, "ISR");
    machine.pic.set_line(5, true);
    assert!(!machine.pic.is_pending(), "lower priority waits");
    machine.pic.set_line(1, true);
    assert_eq!(machine.pic.acknowledge(), 0x31, "higher priority nests");
    machine.write(0, 0, 0x20);
    machine.write(0, 0, 0x20);
    assert_eq!(machine.pic.acknowledge(), 0x35);
}

#[test]
fn the_second_chip_comes_through_the_cascade() {
    let machine = Machine::initialised();
    machine.pic.set_line(12, true);
    machine.pic.set_line(5, true);
    assert_eq!(machine.pic.acknowledge(), 0x3c, "input 2 ranks above 5");
    machine.write(1, 0, 0x64);
    machine.write(0, 0, 0x62);
    assert_eq!(machine.pic.acknowledge(), 0x35);
}

#[test]
fn a_line_that_falls_too_early_is_a_spurious_interrupt() {
    let machine = Machine::initialised();
    machine.pic.set_line(3, true);
    machine.pic.set_line(3, false);
    assert!(!machine.pic.is_pending());
    assert_eq!(machine.pic.acknowledge(), 0x37);
    machine.write(0, 0, 0x0b);
    assert_eq!(machine.read(0, 0), 0, "and is not in service");
}

#[test]
fn a_level_triggered_input_repeats_while_asserted() {
    let machine = Machine::initialised();
    let elcr = Elcr(machine.pic.clone());
    elcr.write(0, Width::Byte, 0xff).unwrap();
    elcr.write(1, Width::Byte, 0xff).unwrap();
    assert_eq!(elcr.read(0, Width::Byte).unwrap(), 0xf8);
    assert_eq!(elcr.read(1, Width::Byte).unwrap(), 0xde);
    machine.pic.set_line(5, true);
    for _ in 0..2 {
        assert_eq!(machine.pic.acknowledge(), 0x35);
        machine.write(0, 0, 0x20);
    }
    machine.pic.set_line(5, false);
    assert!(!machine.pic.is_pending());
}

#[test]
fn an_edge_counts_once() {
    let machine = Machine::initialised();
    machine.pic.set_line(5, true);
    machine.pic.set_line(5, true);
    machine.pic.acknowledge();
    machine.write(0, 0, 0x20);
    assert!(!machine.pic.is_pending());
}

#[test]
fn a_poll_reads_and_serves() {
    let machine = Machine::initialised();
    machine.pic.set_line(6, true);
    machine.write(0, 0, 0x0c);
    assert_eq!(machine.read(0, 0), 0x86);
    machine.write(0, 0, 0x0c);
    assert_eq!(machine.read(0, 0), 0);
}

#[test]
fn rotation_moves_the_lowest_priority() {
    let machine = Machine::initialised();
    machine.write(0, 0, 0xc3);
    machine.pic.set_line(1, true);
    machine.pic.set_line(4, true);
    assert_eq!(machine.pic.acknowledge(), 0x34, "3 is lowest, so 4 is highest");
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let machine = Machine::new();
    machine.write(0, 0, 0x13);
    machine.write(0, 1, 0x40);
    machine.write(0, 1, 0x03);
    machine.pic.set_line(7, true);
    assert_eq!(machine.pic.acknowledge(), 0x47);
    machine.write(0, 0, 0x0b);
    assert_eq!(machine.read(0, 0), 0);
}

proptest! {
    #[test]
    fn the_output_is_up_exactly_while_something_is_pending(
        steps in proptest::collection::vec((0u8..5, any::<u8>(), any::<bool>()), 0..200)
    ) {
        let machine = Machine::initialised();
        for (kind, value, flag) in steps {
            match kind {
                0 | 1 => machine.pic.set_line(value % 20, flag),
                2 => machine.write(usize::from(flag), 0, (value & 0xef).into()),
                3 => machine.write(usize::from(flag), 1, value.into()),
                _ => {
                    let pending = machine.pic.is_pending();
                    let vector = machine.pic.acknowledge();
                    prop_assert!((0x30..0x40).contains(&vector));
                    prop_assert!(pending || vector == 0x37);
                }
            }
            prop_assert_eq!(machine.output.level(), machine.pic.is_pending());
        }
    }
}
