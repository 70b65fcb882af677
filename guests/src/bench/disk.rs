//! Reading a virtio disk (virtio 5.2).

use super::interrupts::{came, forget, idle_until};
use super::{arch, network, sample};
use crate::virtio::{Buffer, Device, Queue};

/// Device ID of a disk.
const DISK: u32 = 2;
/// `VIRTIO_BLK_T_IN`.
const READ: u32 = 0;
/// Bytes of a read.
const LENGTH: usize = 4096;
/// Sectors of it.
const SECTORS: u64 = LENGTH as u64 / 512;
const OK: u8 = 0;

#[repr(C, align(16))]
struct Request {
    kind: u32,
    reserved: u32,
    sector: u64,
}

static QUEUE: Queue = Queue::new();

/// The row of a read, from the first store to the request until its interrupt is ended. Each reads what follows.
pub(super) fn run() {
    let Some(disk) = Device::find(DISK) else { return };
    disk.begin();
    disk.add(0, &QUEUE);
    disk.go();
    network::take_interrupts_of(&disk);
    let mut data = [0u8; LENGTH];
    let mut status = [!OK];
    let mut request = Request { kind: READ, reserved: 0, sector: 0 };
    sample("disk-read", || {
        request.sector += SECTORS;
        forget();
        let start = arch::now();
        let chain = [
            Buffer::read(&raw const request as u64, size_of::<Request>()),
            Buffer::written(data.as_mut_ptr() as u64, LENGTH),
            Buffer::written(status.as_mut_ptr() as u64, 1),
        ];
        QUEUE.submit(0, &chain);
        disk.notify(0);
        idle_until(came);
        let ticks = arch::now() - start;
        // SAFETY: the device has written it, which the compiler does not know.
        let answer = unsafe { status.as_ptr().read_volatile() };
        assert!(QUEUE.take().is_some() && answer == OK, "the disk answers {answer}");
        ticks
    });
}
