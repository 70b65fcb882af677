//! tmp
use bunshin::exit::*;
use bunshin::address::*;
use crate::el2::vcpu::El2Vcpu;
use bunshin::vcpu::Power;
impl El2Vcpu {
    pub(crate) fn call(&mut self) -> Option<Exit> {
        let f = self.registers.x[0] as u32;
        let [_, a, b, c, ..] = self.registers.x;
        match f {
            0x8400_0000 => self.registers.x[0] = 0x10001,
            0x8400_0006 => self.registers.x[0] = 2,
            0x8400_000a => self.registers.x[0] = match a as u32 { 0x8400_0000|0x8400_0002|0xc400_0003|0xc400_0004|0xc400_0001|0x8400_0008|0x8400_0009|0x8400_000a => 0, _ => u64::MAX },
            0x8400_0002 => return Some(Exit::Power(PowerRequest::CpuOff)),
            0xc400_0003 => match self.machine.vcpu_by_mpidr(a) { Some(t) => return Some(Exit::Power(PowerRequest::CpuOn{target: VcpuId(t), entry: GuestAddress(b), context: c})), None => self.registers.x[0] = -2i64 as u64 },
            0xc400_0004 => match self.machine.vcpu_by_mpidr(a) { Some(t) => { self.registers.x[0] = match self.machine.vcpus.get().unwrap()[t].power() { Power::On => 0, Power::Off => 1, _ => 2}; }, None => self.registers.x[0] = -2i64 as u64 },
            0x8400_0008 => return Some(Exit::Power(PowerRequest::SystemOff)),
            0x8400_0009 => return Some(Exit::Power(PowerRequest::SystemReset)),
            _ => self.registers.x[0] = u64::MAX,
        }
        None
    }
    pub(crate) fn answer_power(&mut self, a: PowerAnswer) {
        self.registers.x[0] = match a { PowerAnswer::Success => 0, PowerAnswer::AlreadyOn => -4, PowerAnswer::OnPending => -5, PowerAnswer::InvalidParameters => -2, PowerAnswer::Denied => -3i64 } as u64;
    }
}
