//! Registers of the guest's CPU interface, where the hardware's must be kept from it.

use gic::interface::{Group, Register};
use traps::syndrome::{Direction, SystemRegisterTrap};
use traps::system_register::Encoding;

use crate::el2::percpu;
use crate::el2::vcpu::El2Vcpu;

/// Which register this is, if it can be made to trap.
fn register(encoding: Encoding) -> Option<Register> {
    Some(match encoding {
        Encoding::ICC_IAR0_EL1 => Register::Acknowledge(Group::Zero),
        Encoding::ICC_IAR1_EL1 => Register::Acknowledge(Group::One),
        Encoding::ICC_EOIR0_EL1 => Register::End(Group::Zero),
        Encoding::ICC_EOIR1_EL1 => Register::End(Group::One),
        Encoding::ICC_HPPIR0_EL1 => Register::HighestPending(Group::Zero),
        Encoding::ICC_HPPIR1_EL1 => Register::HighestPending(Group::One),
        Encoding::ICC_BPR0_EL1 => Register::BinaryPoint(Group::Zero),
        Encoding::ICC_BPR1_EL1 => Register::BinaryPoint(Group::One),
        Encoding::ICC_IGRPEN0_EL1 => Register::Enable(Group::Zero),
        Encoding::ICC_IGRPEN1_EL1 => Register::Enable(Group::One),
        Encoding::ICC_AP0R0_EL1 => Register::ActivePriorities(Group::Zero, 0),
        Encoding::ICC_AP0R1_EL1 => Register::ActivePriorities(Group::Zero, 1),
        Encoding::ICC_AP0R2_EL1 => Register::ActivePriorities(Group::Zero, 2),
        Encoding::ICC_AP0R3_EL1 => Register::ActivePriorities(Group::Zero, 3),
        Encoding::ICC_AP1R0_EL1 => Register::ActivePriorities(Group::One, 0),
        Encoding::ICC_AP1R1_EL1 => Register::ActivePriorities(Group::One, 1),
        Encoding::ICC_AP1R2_EL1 => Register::ActivePriorities(Group::One, 2),
        Encoding::ICC_AP1R3_EL1 => Register::ActivePriorities(Group::One, 3),
        Encoding::ICC_DIR_EL1 => Register::Deactivate,
        _ => return None,
    })
}

impl El2Vcpu {
    /// Carries out an access to such a register; `None` if it does not trap on this machine.
    pub(crate) fn interface_register(
        &mut self,
        encoding: Encoding,
        trap: SystemRegisterTrap,
    ) -> Option<()> {
        let register = register(encoding)?;
        let interface = percpu::this().interface();
        match trap.direction {
            Direction::Read => {
                let value = interface.read_trapped(register)?;
                self.registers.set(trap.register, value);
            }
            Direction::Write => {
                interface.write_trapped(register, self.registers.get(trap.register))?;
            }
        }
        Some(())
    }
}
