//! Serial ports. Firmware has set their line and speed, which stay as they are.

mod ns16550;
mod s5l;

pub use ns16550::{Layout, Ns16550};
pub use s5l::S5l;

/// A serial port that is the console.
///
/// All methods take `&self`: a report of a fault must get out whoever holds which lock. Each operation is a sequence of
/// single accesses, so the worst that two writers at once can do is to mix their text.
pub trait Serial {
    /// Sends a byte, when there is space for it. A port that never has any loses it.
    fn put(&self, byte: u8);

    /// Sends a byte if there is space for it now; false if there is not.
    fn try_put(&self, byte: u8) -> bool {
        self.put(byte);
        true
    }

    /// Whether the port's interrupt also comes when there is space again after [`Serial::try_put`] has found none.
    /// A port that never finds none needs no such interrupt.
    fn want_space(&self, _wanted: bool) {}

    /// A byte that was received, if there is one.
    fn get(&self) -> Option<u8>;

    /// Has received bytes raise the port's interrupt.
    fn enable_receive_interrupt(&self);

    /// Puts that interrupt down; unread bytes raise it again.
    fn acknowledge_receive_interrupt(&self);
}

/// Polls for space, but not for ever: a port that is off must not take the hypervisor with it.
fn wait(mut ready: impl FnMut() -> bool) -> bool {
    /// Thousands of times as many as a byte takes at 9600 baud.
    const POLLS: u32 = 1_000_000;
    (0..POLLS).any(|_| {
        let ready = ready();
        if !ready {
            core::hint::spin_loop();
        }
        ready
    })
}
