//! tmp
use bunshin::exit::{Completion, Exit};
use crate::el2::vcpu::El2Vcpu;
#[derive(Debug)]
pub(crate) struct Emulation;
impl El2Vcpu {
    pub(crate) fn emulate(&mut self, _address: u64) -> Option<Exit> { self.inject_external_abort(); None }
    pub(crate) fn continue_emulation(&mut self) -> Option<Exit> { None }
    pub(crate) fn finish_emulated_access(&mut self, _c: Completion, _v: u64) {}
    pub(crate) fn abandon_emulation(&mut self) { self.emulation = None; }
}
