//! Has a CPU execute nonsense from real mode on, for ever: what an emulator of modes gets wrong.
//!
//! The nonsense is made of instructions that change modes, segments, tables and flags, with operands that
//! mean something more often than not. Most rounds end with an exception for which there is no handler, that is,
//! with a restart of the machine.
//!
//! Two things that a guest may do break QEMU 10's emulation of AMD-V, and with it any hypervisor: an exit from a guest
//! with EFER.LME and neither paging nor CR4.PAE leaves the host the guest's CR0; and CR0.NW without CR0.CD, for which a
//! processor faults, is taken, whereupon VMRUN fails and the VM ends. So on AMD nobody writes EFER or CR0.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod guest {
    use guests::random::Random;
    use guests::x86_64::{apic, cpu, smp, time};
    use guests::{entry, println};

    /// The segment of code, and its page.
    const CODE: usize = 0x1_0000;
    const CODE_BYTES: usize = 0x1_0000;
    /// Handlers of real mode.
    const HANDLERS: usize = 0x2_0000;
    /// Descriptors, and gates of protected mode.
    const DESCRIPTORS: usize = 0x2_1000;
    const GATES: usize = 0x2_2000;
    /// Tables of long mode; those of other modes find something in them too.
    const TABLES: usize = 0x2_4000;
    /// Operands of LGDT and LIDT at the start of the code's segment.
    const OPERANDS: usize = 64;

    const EFER: u32 = 0xc000_0080;

    /// Rounds between two lines.
    const ROUNDS: u64 = 16;
    /// Milliseconds of a round.
    const ROUND: u64 = 2;
    /// The CPU that executes it.
    const WORKER: usize = 1;

    /// Where bytes go.
    struct Memory {
        next: usize,
        end: usize,
    }

    impl Memory {
        fn put(&mut self, bytes: &[u8]) {
            for byte in bytes {
                if self.next < self.end {
                    // SAFETY: nothing of Rust's lies below 1 MiB, where all of this is.
                    unsafe { (self.next as *mut u8).write_volatile(*byte) }
                    self.next += 1;
                }
            }
        }
    }

    fn pick<T: Copy>(random: &mut Random, from: &[T]) -> T {
        from[random.below(from.len() as u64) as usize]
    }

    /// A value for a control register, or for anything.
    fn value(random: &mut Random) -> u32 {
        match random.below(4) {
            0 => random.next() as u32,
            1 => 1 << random.below(32),
            _ => pick(
                random,
                &[
                    0x11,
                    0x10,
                    0x8000_0011,
                    0x8000_0001,
                    0x6000_0010,
                    0xe000_0011,
                    0x8005_003b,
                    0x20,
                    0xb0,
                    0x620,
                    0x10_0620,
                    TABLES as u32,
                    TABLES as u32 + 0x1000,
                    8,
                    0x10,
                    0x18,
                    0x1b,
                    0x23,
                    0x28,
                    0x30,
                    0x38,
                    0x1000,
                    0x2000,
                    0xffff,
                    0xf000,
                    0x3002,
                    0x2_0202,
                    0x302,
                    0x7202,
                    0,
                ],
            ),
        }
    }

    /// Whether modes are changed by CR0 and EFER, too.
    fn changes_all_modes() -> bool {
        const AMD: u32 = u32::from_le_bytes(*b"Auth");
        cpu::cpuid(0, 0).ebx != AMD
    }

    /// One instruction, or a few that belong together.
    fn instruction(random: &mut Random, code: &mut Memory, all_modes: bool) {
        let (byte, other) = (random.next() as u8, random.next() as u8);
        match random.below(28) {
            0..=3 => {
                // MOV EAX, imm32, then to a control register or back.
                code.put(&[0x66, 0xb8]);
                code.put(&value(random).to_le_bytes());
                let register = pick(random, &[0xc0, 0xc0, 0xc0, 0xd8, 0xe0, 0xd0]);
                let writes = (all_modes || register != 0xc0) && random.below(4) != 0;
                code.put(&[0x0f, if writes { 0x22 } else { 0x20 }, register]);
            }
            4..=6 => {
                // MOV AX, imm16, then to a segment register.
                code.put(&[0xb8]);
                code.put(&(value(random) as u16).to_le_bytes());
                code.put(&[0x8e, pick(random, &[0xd8, 0xc0, 0xd0, 0xe0, 0xe8])]);
            }
            7 | 8 => {
                // LGDT, LIDT, SGDT, SIDT, LMSW.
                if byte & 1 != 0 {
                    code.put(&[0x66]);
                }
                code.put(&[0x0f, 0x01, pick(random, &[0x16, 0x16, 0x1e, 0x1e, 0x06, 0x0e, 0x36])]);
                code.put(&u16::from((other % OPERANDS as u8) & !7).to_le_bytes());
            }
            9 => code.put(&[0xcd, byte]),
            10 => code.put(&[pick(
                random,
                &[0xcc, 0xce, 0xf1, 0xf4, 0xfa, 0xfb, 0x9c, 0x9d, 0xcf, 0xcb, 0xc3],
            )]),
            11 => code.put(&[0x66, pick(random, &[0x9c, 0x9d, 0xcf, 0xcb, 0xc3, 0x60, 0x61])]),
            12 => {
                // PUSH imm, POPF or IRET.
                code.put(&[0x66, 0x68]);
                code.put(&value(random).to_le_bytes());
                code.put(pick(
                    random,
                    &[&[0x9d][..], &[0x66, 0x9d], &[0xcf], &[0x66, 0xcf], &[0x17]],
                ));
            }
            13 | 14 => {
                // JMP and CALL ptr16:16, ptr16:32.
                let selector = if byte & 3 == 0 {
                    value(random) as u16
                } else {
                    pick(random, &[8, 0x1000, 0x18, 0x23, 0x38])
                };
                let offset = u32::from(random.next() as u16);
                if other & 1 != 0 {
                    code.put(&[0x66, pick(random, &[0xea, 0x9a])]);
                    code.put(
                        &(if other & 2 != 0 { offset + CODE as u32 } else { offset }).to_le_bytes(),
                    );
                } else {
                    code.put(&[pick(random, &[0xea, 0x9a])]);
                    code.put(&(offset as u16).to_le_bytes());
                }
                code.put(&selector.to_le_bytes());
            }
            15 => code.put(&[
                pick(random, &[0xe4, 0xe5, 0xe6, 0xe7]),
                pick(random, &[0x21, 0x40, 0x61, 0x70, 0x71, 0x80, 0xa1]),
            ]),
            16 => {
                // Strings of ports, few elements of them.
                code.put(&[0xb9, byte & 15, 0, 0xba, 0x80, 0]);
                if other & 1 != 0 {
                    code.put(&[0x67]);
                }
                code.put(&[0xf3, pick(random, &[0x6c, 0x6d, 0x6e, 0x6f])]);
            }
            17 => {
                // MOV ECX, imm32, RDMSR or WRMSR.
                let msr = pick(
                    random,
                    &[0x1b, EFER, 0x174, 0x175, 0x176, 0x10, 0x1d9, 0x277, 0xc000_0102, 0x80b],
                );
                let msr = if msr == EFER && !all_modes { 0x10 } else { msr };
                code.put(&[0x66, 0xb9]);
                code.put(&u32::to_le_bytes(msr));
                code.put(&[0x66, 0xb8]);
                code.put(&pick(random, &[0x100u32, 0x101, 0x901, 8, 0]).to_le_bytes());
                code.put(&[0x66, 0x31, 0xd2, 0x0f, pick(random, &[0x30, 0x30, 0x32])]);
            }
            18 => code.put(&[0x0f, pick(random, &[0x21, 0x23]), 0xc0 | byte & 0x38]),
            19 => {
                // MOV SP, imm16.
                code.put(&[
                    0xbc,
                    pick(random, &[0, 1, 2, 3, 4, 6, 0xff]),
                    pick(random, &[0, 0, 0x80, 0xff]),
                ]);
            }
            20 => code.put(&[
                0x0f,
                pick(
                    random,
                    &[0x06, 0x08, 0x09, 0x0b, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0xa2, 0x05, 0x07],
                ),
            ]),
            21 => code.put(&[
                0x0f,
                0x01,
                pick(random, &[0xc1, 0xc2, 0xc8, 0xc9, 0xd0, 0xd1, 0xd9, 0xe0, 0xf0, 0xf8, 0x38]),
            ]),
            22 => code.put(&[0x0f, 0x00, 0xc0 | byte & 0x38]),
            23 => {
                code.put(&[pick(random, &[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x65])])
            }
            24 => code.put(&[pick(random, &[0xa0, 0xa1, 0xa2, 0xa3]), byte, other]),
            // A jump on, at times back.
            25 => code.put(&[pick(random, &[0xeb, 0x74, 0x75, 0xe2]), byte & 0x8f]),
            26 => code.put(&[0xff, pick(random, &[0x2e, 0x1e, 0x6f, 0x5f]), byte, other]),
            _ => code.put(&[byte, other]),
        }
    }

    fn region(start: usize, bytes: usize) -> Memory {
        Memory { next: start, end: start + bytes }
    }

    /// Everything but the code: valid, or nearly so.
    fn surroundings(random: &mut Random) {
        let mut handlers = region(HANDLERS, 0x400);
        for _ in 0..256 {
            handlers.put(&(random.next() as u16).to_le_bytes());
            handlers.put(&pick(random, &[0x1000u16, 0x1000, 0x1000, 0x0fff, 0xffff]).to_le_bytes());
        }
        let mut descriptors = region(DESCRIPTORS, 0x100);
        for descriptor in [
            0u64,
            0x0000_9b01_0000_ffff,
            0x0000_9301_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x00cf_f301_0000_ffff,
            0x00af_9b00_0000_ffff,
            0x0000_8b02_8000_0067,
            0x00cf_9f00_0000_ffff,
            0x0000_8202_1000_00ff,
            0x0000_8402_0000_0000 | 8 << 16,
        ] {
            let flip = if random.below(8) == 0 { 1 << random.below(64) } else { 0 };
            descriptors.put(&(descriptor ^ flip).to_le_bytes());
        }
        let mut gates = region(GATES, 0x1000);
        for _ in 0..256 {
            let kind = pick(random, &[0x8e00u64, 0x8f00, 0x8600, 0xee00, 0x8500, 0]);
            let selector = pick(random, &[8u64, 0x18, 0x28, 0x38, 0x30]);
            gates.put(
                &((random.next() & 0xffff) | selector << 16 | kind << 32 | 1 << 48).to_le_bytes(),
            );
        }
        // Level 4, level 3, two of level 2 that map the first 2 GiB.
        for level in 0..4u64 {
            let mut table = region(TABLES + level as usize * 0x1000, 0x1000);
            for entry in 0..512u64 {
                let value = match (level, entry) {
                    (0, 0) => (TABLES as u64 + 0x1000) | 7,
                    (1, 0 | 1) => (TABLES as u64 + 0x2000 + entry * 0x1000) | 1,
                    (2 | 3, _) => (((level - 2) * 512 + entry) << 21) | 0x87,
                    _ => 0,
                };
                table.put(&value.to_le_bytes());
            }
        }
    }

    fn round(random: &mut Random) {
        surroundings(random);
        let mut code = region(CODE, CODE_BYTES);
        // CS to DS and SS, a stack; then past the operands.
        code.put(&[0x8c, 0xc8, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0, 0xf0, 0xeb, OPERANDS as u8]);
        while code.next < CODE + 16 {
            code.put(&[0x90]);
        }
        for (limit, base) in [
            (0x4fu16, DESCRIPTORS),
            (0x3ff, HANDLERS),
            (0x7ff, GATES),
            (0xff, DESCRIPTORS),
            (0, 0),
            (0xffff, CODE),
        ] {
            code.put(&limit.to_le_bytes());
            code.put(&(base as u32).to_le_bytes());
            code.put(&[0, 0]);
        }
        let all_modes = changes_all_modes();
        while code.next < code.end {
            instruction(random, &mut code, all_modes);
        }
        smp::stop(WORKER);
        for _ in 0..2 {
            apic::send(smp::apic_id(WORKER), apic::ICR_STARTUP | CODE as u64 >> 12);
        }
        time::wait_for(ROUND, || false);
    }

    fn main() -> ! {
        if smp::count() <= WORKER {
            println!("chaos: one CPU");
            cpu::stop()
        }
        let seed = cpu::tsc();
        println!("chaos: seed {seed:#x}");
        let mut random = Random::new(seed);
        let mut rounds = 0u64;
        loop {
            round(&mut random);
            rounds += 1;
            if rounds.is_multiple_of(ROUNDS) {
                println!("chaos: {rounds} rounds");
            }
        }
    }

    entry!(main);
}

#[cfg(not(target_os = "none"))]
fn main() {}
