//! The virtual network: two Debians and the world outside.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::arch::Arch;

use crate::{Case, case, vmfile};

/// On a busy machine; 64 MiB are 46 thousand frames.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let tested = vmfile::architectures(full).iter().map(|arch| {
        case(format!("network::two_debians_and_the_uplink/{arch}"), move || transfer(*arch))
    });
    tested.collect()
}

/// One guest serves 64 MiB from its disk; the other fetches them onto its own, compares checksums
/// and pings the emulator through the uplink.
fn transfer(arch: Arch) -> Result<()> {
    let mut file = vmfile::load("duo.toml")?;
    vmfile::add_words(&mut file, "one", "quiet bunshin.run=serve,64")?;
    vmfile::add_words(&mut file, "two", "quiet bunshin.run=fetch,10.0.2.101,10.0.2.2")?;
    let mut emulator = vmfile::boot(&file, arch, Path::new(""), LIMIT)?;
    emulator.expect("serve: 64 MiB with ")?;
    emulator.expect("fetch: 67108864 bytes")?;
    emulator.expect("fetch: checksums match")?;
    let ping = emulator.expect_line("fetch: ping: ")?;
    ensure!(ping.contains(" 3 packets received"), "{ping}");
    emulator.expect("serve: unchanged")?;
    emulator.finish().map(drop)
}
