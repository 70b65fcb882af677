//! What is behind the disks of virtual machines: images in memory and
//! partitions of the host's disks.

pub mod image;
pub mod partition;
#[cfg(test)]
mod tests;

pub use image::{ImageDisk, Page, PageSource};
pub use partition::{Partition, PartitionError, ReadOnly};
