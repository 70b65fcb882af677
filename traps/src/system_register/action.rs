//! What to do about a trapped register: one row a register.

use super::Encoding;
use crate::syndrome::Direction;

/// Which interrupt a write to `ICC_*SGI*R_EL1` asks for (GICv3 12.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SoftwareInterrupt {
    /// `ICC_SGI1R_EL1`: Group 1 of the guest's own security state.
    Group1,
    /// `ICC_ASGI1R_EL1`: Group 1 of the other security state.
    AliasGroup1,
    /// `ICC_SGI0R_EL1`: Group 0.
    Group0,
}

/// Cache maintenance by set and way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetWay {
    /// `DC ISW`. A guest cannot be allowed to discard lines of others, so this too must clean.
    Invalidate,
    /// `DC CSW`.
    Clean,
    /// `DC CISW`.
    CleanInvalidate,
}

/// What the hypervisor does when the guest accesses a trapped register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Inject an Undefined Instruction exception.
    Undefined,
    /// Reads as zero; writes are ignored.
    Zero,
    /// Reads as this value; writes are ignored.
    Constant(u64),
    /// Reads as the guest's identification register at this index ([`crate::identification::IdRegisters::get`]).
    Identification(u8),
    /// Sends a software-generated interrupt.
    SoftwareInterrupt(SoftwareInterrupt),
    /// Another register of the GICv3 CPU interface, trapped by `ICH_HCR_EL2`.
    InterruptController(Encoding),
    /// Cleans and invalidates the guest's memory.
    SetWay(SetWay),
    /// A register of the guest's EL1 translation regime, trapped by `HCR_EL2.TVM`, `TRVM`: do what the guest asks,
    /// and see whether its caches went on or off.
    VirtualMemory(Encoding),
    /// A timer or counter, trapped by `CNTHCTL_EL2`.
    Timer(Encoding),
    /// A debug register, trapped by `MDCR_EL2.TDA` or `TDOSA`. `OSLAR_EL1` and `OSLSR_EL1` come here wherever the
    /// processor has the double lock: do what the guest asks, on the register itself.
    Debug(Encoding),
    /// A performance monitor register, trapped by `MDCR_EL2.TPM` or `TPMCR`.
    PerformanceMonitor(Encoding),
}

/// Which accesses a register allows; any other is UNDEFINED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    ReadOnly,
    WriteOnly,
    ReadWrite,
}

/// On what the existence of a register depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    InterruptController,
    PerformanceMonitors,
}

/// Which groups of registers the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visibility {
    /// The guest's interrupt controller is a GICv3, so it has the `ICC_*` registers.
    pub interrupt_controller: bool,
    /// The guest has performance monitors.
    pub performance_monitors: bool,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    encoding: Encoding,
    access: Access,
    when: When,
    action: Action,
}

/// `ICC_SRE_EL1` of a guest: `SRE`, `DFB` and `DIB` are set and cannot be cleared. There is no legacy operation and
/// no bypass.
const ICC_SRE_VALUE: u64 = 0b111;

/// Builds the rows.
macro_rules! rows {
    ($($name:ident $access:ident $when:ident $action:expr;)*) => {
        &[$(Row { encoding: Encoding::$name, access: Access::$access, when: When::$when, action: $action }),*]
    };
}

/// Builds an action that carries the encoding.
macro_rules! on {
    ($group:ident $name:ident) => {
        Action::$group(Encoding::$name)
    };
}

/// The trapped registers, in ascending order of their encodings.
static ROWS: &[Row] = rows! {
    DC_ISW WriteOnly Always Action::SetWay(SetWay::Invalidate);
    DC_CSW WriteOnly Always Action::SetWay(SetWay::Clean);
    DC_CISW WriteOnly Always Action::SetWay(SetWay::CleanInvalidate);

    // External debug is not the guest's: its channels are empty, its claims never stick.
    OSDTRRX_EL1 ReadWrite Always Action::Zero;
    MDCCINT_EL1 ReadWrite Always Action::Zero;
    MDSCR_EL1 ReadWrite Always on!(Debug MDSCR_EL1);
    OSDTRTX_EL1 ReadWrite Always Action::Zero;
    OSECCR_EL1 ReadWrite Always Action::Zero;
    MDRAR_EL1 ReadOnly Always Action::Zero;
    OSLAR_EL1 WriteOnly Always on!(Debug OSLAR_EL1);
    OSLSR_EL1 ReadOnly Always on!(Debug OSLSR_EL1);
    OSDLR_EL1 ReadWrite Always Action::Zero;
    DBGPRCR_EL1 ReadWrite Always Action::Zero;
    DBGCLAIMSET_EL1 ReadWrite Always Action::Zero;
    DBGCLAIMCLR_EL1 ReadWrite Always Action::Zero;
    DBGAUTHSTATUS_EL1 ReadOnly Always on!(Debug DBGAUTHSTATUS_EL1);
    MDCCSR_EL0 ReadOnly Always Action::Zero;
    DBGDTR_EL0 ReadWrite Always Action::Zero;
    DBGDTRRX_EL0 ReadWrite Always Action::Zero;

    REVIDR_EL1 ReadOnly Always Action::Zero;
    SCTLR_EL1 ReadWrite Always on!(VirtualMemory SCTLR_EL1);
    ACTLR_EL1 ReadWrite Always Action::Zero;
    TTBR0_EL1 ReadWrite Always on!(VirtualMemory TTBR0_EL1);
    TTBR1_EL1 ReadWrite Always on!(VirtualMemory TTBR1_EL1);
    TCR_EL1 ReadWrite Always on!(VirtualMemory TCR_EL1);
    ICC_PMR_EL1 ReadWrite InterruptController on!(InterruptController ICC_PMR_EL1);
    AFSR0_EL1 ReadWrite Always on!(VirtualMemory AFSR0_EL1);
    AFSR1_EL1 ReadWrite Always on!(VirtualMemory AFSR1_EL1);
    ESR_EL1 ReadWrite Always on!(VirtualMemory ESR_EL1);
    FAR_EL1 ReadWrite Always on!(VirtualMemory FAR_EL1);
    PMINTENSET_EL1 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMINTENSET_EL1);
    PMINTENCLR_EL1 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMINTENCLR_EL1);
    PMMIR_EL1 ReadOnly PerformanceMonitors on!(PerformanceMonitor PMMIR_EL1);
    MAIR_EL1 ReadWrite Always on!(VirtualMemory MAIR_EL1);
    AMAIR_EL1 ReadWrite Always on!(VirtualMemory AMAIR_EL1);
    ICC_IAR0_EL1 ReadOnly InterruptController on!(InterruptController ICC_IAR0_EL1);
    ICC_EOIR0_EL1 WriteOnly InterruptController on!(InterruptController ICC_EOIR0_EL1);
    ICC_HPPIR0_EL1 ReadOnly InterruptController on!(InterruptController ICC_HPPIR0_EL1);
    ICC_BPR0_EL1 ReadWrite InterruptController on!(InterruptController ICC_BPR0_EL1);
    ICC_AP0R0_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP0R0_EL1);
    ICC_AP0R1_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP0R1_EL1);
    ICC_AP0R2_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP0R2_EL1);
    ICC_AP0R3_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP0R3_EL1);
    ICC_AP1R0_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP1R0_EL1);
    ICC_AP1R1_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP1R1_EL1);
    ICC_AP1R2_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP1R2_EL1);
    ICC_AP1R3_EL1 ReadWrite InterruptController on!(InterruptController ICC_AP1R3_EL1);
    ICC_DIR_EL1 WriteOnly InterruptController on!(InterruptController ICC_DIR_EL1);
    ICC_RPR_EL1 ReadOnly InterruptController on!(InterruptController ICC_RPR_EL1);
    ICC_SGI1R_EL1 WriteOnly InterruptController Action::SoftwareInterrupt(SoftwareInterrupt::Group1);
    ICC_ASGI1R_EL1 WriteOnly InterruptController Action::SoftwareInterrupt(SoftwareInterrupt::AliasGroup1);
    ICC_SGI0R_EL1 WriteOnly InterruptController Action::SoftwareInterrupt(SoftwareInterrupt::Group0);
    ICC_IAR1_EL1 ReadOnly InterruptController on!(InterruptController ICC_IAR1_EL1);
    ICC_EOIR1_EL1 WriteOnly InterruptController on!(InterruptController ICC_EOIR1_EL1);
    ICC_HPPIR1_EL1 ReadOnly InterruptController on!(InterruptController ICC_HPPIR1_EL1);
    ICC_BPR1_EL1 ReadWrite InterruptController on!(InterruptController ICC_BPR1_EL1);
    ICC_CTLR_EL1 ReadWrite InterruptController on!(InterruptController ICC_CTLR_EL1);
    ICC_SRE_EL1 ReadWrite InterruptController Action::Constant(ICC_SRE_VALUE);
    ICC_IGRPEN0_EL1 ReadWrite InterruptController on!(InterruptController ICC_IGRPEN0_EL1);
    ICC_IGRPEN1_EL1 ReadWrite InterruptController on!(InterruptController ICC_IGRPEN1_EL1);
    CONTEXTIDR_EL1 ReadWrite Always on!(VirtualMemory CONTEXTIDR_EL1);
    AIDR_EL1 ReadOnly Always Action::Zero;
    PMCR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMCR_EL0);
    PMCNTENSET_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMCNTENSET_EL0);
    PMCNTENCLR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMCNTENCLR_EL0);
    PMOVSCLR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMOVSCLR_EL0);
    PMSWINC_EL0 WriteOnly PerformanceMonitors on!(PerformanceMonitor PMSWINC_EL0);
    PMSELR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMSELR_EL0);
    PMCEID0_EL0 ReadOnly PerformanceMonitors on!(PerformanceMonitor PMCEID0_EL0);
    PMCEID1_EL0 ReadOnly PerformanceMonitors on!(PerformanceMonitor PMCEID1_EL0);
    PMCCNTR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMCCNTR_EL0);
    PMXEVTYPER_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMXEVTYPER_EL0);
    PMXEVCNTR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMXEVCNTR_EL0);
    PMUSERENR_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMUSERENR_EL0);
    PMOVSSET_EL0 ReadWrite PerformanceMonitors on!(PerformanceMonitor PMOVSSET_EL0);
    CNTPCT_EL0 ReadOnly Always on!(Timer CNTPCT_EL0);
    CNTVCT_EL0 ReadOnly Always on!(Timer CNTVCT_EL0);
    CNTPCTSS_EL0 ReadOnly Always on!(Timer CNTPCTSS_EL0);
    CNTVCTSS_EL0 ReadOnly Always on!(Timer CNTVCTSS_EL0);
    CNTP_TVAL_EL0 ReadWrite Always on!(Timer CNTP_TVAL_EL0);
    CNTP_CTL_EL0 ReadWrite Always on!(Timer CNTP_CTL_EL0);
    CNTP_CVAL_EL0 ReadWrite Always on!(Timer CNTP_CVAL_EL0);
    CNTV_TVAL_EL0 ReadWrite Always on!(Timer CNTV_TVAL_EL0);
    CNTV_CTL_EL0 ReadWrite Always on!(Timer CNTV_CTL_EL0);
    CNTV_CVAL_EL0 ReadWrite Always on!(Timer CNTV_CVAL_EL0);
};

impl Access {
    /// Whether this allows an access in `direction`.
    const fn allows(self, direction: Direction) -> bool {
        match self {
            Self::ReadWrite => true,
            Self::ReadOnly => matches!(direction, Direction::Read),
            Self::WriteOnly => matches!(direction, Direction::Write),
        }
    }
}

impl Visibility {
    /// Whether a register that depends on `when` exists.
    const fn includes(self, when: When) -> bool {
        match when {
            When::Always => true,
            When::InterruptController => self.interrupt_controller,
            When::PerformanceMonitors => self.performance_monitors,
        }
    }
}

impl Action {
    /// What to do about an access in `direction` to `encoding` by a guest with the registers of `visibility`.
    #[must_use]
    pub fn of(encoding: Encoding, direction: Direction, visibility: Visibility) -> Self {
        if let Some(index) = encoding.identification_index() {
            return match direction {
                Direction::Read => Self::Identification(index),
                Direction::Write => Self::Undefined,
            };
        }
        if let Ok(index) = ROWS.binary_search_by_key(&encoding, |row| row.encoding) {
            return match ROWS.get(index) {
                Some(row) if row.access.allows(direction) && visibility.includes(row.when) => {
                    row.action
                }
                _ => Self::Undefined,
            };
        }
        if encoding.is_debug_comparator() {
            Self::Debug(encoding)
        } else if encoding.is_event_counter() && visibility.performance_monitors {
            Self::PerformanceMonitor(encoding)
        } else {
            Self::Undefined
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Visibility = Visibility { interrupt_controller: true, performance_monitors: true };
    const NONE: Visibility =
        Visibility { interrupt_controller: false, performance_monitors: false };

    fn read(encoding: Encoding) -> Action {
        Action::of(encoding, Direction::Read, ALL)
    }

    fn write(encoding: Encoding) -> Action {
        Action::of(encoding, Direction::Write, ALL)
    }

    #[test]
    fn the_rows_are_in_ascending_order_without_duplicates() {
        for pair in ROWS.windows(2) {
            assert!(
                pair[0].encoding < pair[1].encoding,
                "{} before {}",
                pair[0].encoding,
                pair[1].encoding
            );
        }
    }

    #[test]
    fn an_action_that_carries_an_encoding_carries_that_of_its_row() {
        for row in ROWS {
            match row.action {
                Action::InterruptController(e)
                | Action::VirtualMemory(e)
                | Action::Timer(e)
                | Action::Debug(e)
                | Action::PerformanceMonitor(e) => assert_eq!(e, row.encoding),
                _ => {}
            }
            assert!(row.encoding.name().is_some());
        }
    }

    #[test]
    fn identification_registers_are_read_from_the_table_and_never_written() {
        assert_eq!(read(Encoding::ID_AA64MMFR0_EL1), Action::Identification(56));
        assert_eq!(
            read(Encoding::new(3, 0, 0, 7, 7)),
            Action::Identification(63),
            "reserved space is RAZ, not UNDEFINED"
        );
        assert_eq!(write(Encoding::ID_AA64MMFR0_EL1), Action::Undefined);
    }

    #[test]
    fn the_registers_that_linux_meets_are_answered() {
        let table = [
            (write(Encoding::ICC_SGI1R_EL1), Action::SoftwareInterrupt(SoftwareInterrupt::Group1)),
            (write(Encoding::ICC_SGI0R_EL1), Action::SoftwareInterrupt(SoftwareInterrupt::Group0)),
            (read(Encoding::ICC_SGI1R_EL1), Action::Undefined),
            (read(Encoding::ICC_SRE_EL1), Action::Constant(7)),
            (write(Encoding::ICC_SRE_EL1), Action::Constant(7)),
            (read(Encoding::ACTLR_EL1), Action::Zero),
            (write(Encoding::DC_CISW), Action::SetWay(SetWay::CleanInvalidate)),
            (write(Encoding::SCTLR_EL1), Action::VirtualMemory(Encoding::SCTLR_EL1)),
            (write(Encoding::OSDLR_EL1), Action::Zero),
            (read(Encoding::OSLAR_EL1), Action::Undefined),
            (read(Encoding::new(2, 0, 0, 15, 4)), Action::Debug(Encoding::new(2, 0, 0, 15, 4))),
            (
                read(Encoding::new(3, 3, 14, 8, 0)),
                Action::PerformanceMonitor(Encoding::new(3, 3, 14, 8, 0)),
            ),
        ];
        for (i, (got, expected)) in table.into_iter().enumerate() {
            assert_eq!(got, expected, "row {i}");
        }
    }

    #[test]
    fn hidden_extensions_are_undefined() {
        let hidden = [
            Encoding::ERRIDR_EL1,
            Encoding::ERXSTATUS_EL1,
            Encoding::LORID_EL1,
            Encoding::LORC_EL1,
            Encoding::TRFCR_EL1,
            Encoding::PMSCR_EL1,
            Encoding::TRBLIMITR_EL1,
            Encoding::AMCR_EL0,
            Encoding::BRBCR_EL1,
            Encoding::TCR2_EL1,
            Encoding::PIR_EL1,
            Encoding::SMPRI_EL1,
            Encoding::TPIDR2_EL0,
            Encoding::SCXTNUM_EL1,
            Encoding::RGSR_EL1,
            Encoding::MPAM1_EL1,
            Encoding::DC_CIGSW,
            Encoding::new(3, 1, 11, 0, 2), // L2CTLR_EL1 of Cortex-A53
            Encoding::new(3, 1, 15, 2, 1), // CPUECTLR_EL1 of Cortex-A53
        ];
        for encoding in hidden {
            assert_eq!(read(encoding), Action::Undefined, "{encoding}");
            assert_eq!(write(encoding), Action::Undefined, "{encoding}");
        }
    }

    #[test]
    fn a_guest_without_gicv3_or_performance_monitors_has_none_of_their_registers() {
        let interrupt_controller =
            [Encoding::ICC_SRE_EL1, Encoding::ICC_SGI1R_EL1, Encoding::ICC_PMR_EL1];
        let monitors = [Encoding::PMCR_EL0, Encoding::PMCCFILTR_EL0, Encoding::PMINTENSET_EL1];
        for encoding in interrupt_controller.into_iter().chain(monitors) {
            for direction in [Direction::Read, Direction::Write] {
                assert_eq!(Action::of(encoding, direction, NONE), Action::Undefined, "{encoding}");
            }
        }
    }
}
