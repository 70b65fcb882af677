//! The devices, at the addresses that they have on an M1 and on an M2, which differ in the interrupt controller only.

use spin::mutex::SpinMutex;

use crate::aic::Aic;
use crate::print::fail;
use crate::uart::Uart;

const AIC: core::ops::Range<u64> = 0x2_3b10_0000..0x2_3b10_8000;
const AIC2: core::ops::Range<u64> = 0x2_3b0c_0000..0x2_3b0c_8000;
const AIC2_EVENT: u64 = 0x2_3b0c_8000;
const UART: core::ops::Range<u64> = 0x2_3520_0000..0x2_3520_1000;
const WATCHDOG: core::ops::Range<u64> = 0x2_3d2b_0000..0x2_3d2b_4000;
const WATCHDOG_CONTROL: u64 = 0x1c;

struct Devices {
    aic: Aic,
    uart: Uart,
}

static DEVICES: SpinMutex<Devices> = SpinMutex::new(Devices { aic: Aic::new(), uart: Uart::new() });

/// To be called once, before all else.
pub(crate) fn reset() {
    let mut devices = DEVICES.lock();
    devices.aic.reset();
    devices.uart.reset();
}

pub(crate) fn read(cpu: usize, address: u64) -> u64 {
    let mut devices = DEVICES.lock();
    let Devices { aic, uart } = &mut *devices;
    let value = if AIC.contains(&address) {
        aic.read(cpu, (address - AIC.start) as usize, uart)
    } else if AIC2.contains(&address) {
        aic.read2(cpu, (address - AIC2.start) as usize, uart)
    } else if address == AIC2_EVENT {
        aic.event(cpu, uart)
    } else if UART.contains(&address) {
        uart.read((address - UART.start) as usize)
    } else if WATCHDOG.contains(&address) {
        0
    } else {
        fail(format_args!("CPU {cpu} reads {address:#x}, where there is no device"))
    };
    value.into()
}

pub(crate) fn write(cpu: usize, address: u64, value: u32) {
    let mut devices = DEVICES.lock();
    if AIC.contains(&address) {
        devices.aic.write((address - AIC.start) as usize, value);
    } else if AIC2.contains(&address) {
        devices.aic.write2((address - AIC2.start) as usize, value);
    } else if UART.contains(&address) {
        devices.uart.write((address - UART.start) as usize, value);
    } else if WATCHDOG.contains(&address) {
        if address - WATCHDOG.start == WATCHDOG_CONTROL && value != 0 {
            fail(format_args!("the watchdog resets the machine"));
        }
    } else {
        fail(format_args!("CPU {cpu} writes {address:#x}, where there is no device"));
    }
}
