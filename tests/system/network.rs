//! The virtual network: two Debians and the world outside.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::arch::Arch;
use xtask::vmfile::VmFile;

use crate::emulator::Emulator;
use crate::monitor::{SHELL, ask, focus_on, shell, shell_of};
use crate::{Case, case, vmfile};

/// On a busy machine; 64 MiB are 46 thousand frames.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let tested = vmfile::architectures(full).iter().flat_map(|arch| {
        [
            case(format!("network::two_debians_and_the_uplink/{arch}"), move || transfer(*arch)),
            case(format!("network::the_switch_keeps_vlans_apart/{arch}"), move || vlans(*arch)),
        ]
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

/// Each of two Debians has a port on one VLAN, which both are on, and one on a VLAN of its own.
const VLANS: &str = "\
    [[vm]]\nname = \"one\"\nmemory = \"128M\"\nkernel = \"debian:6.1\"\ninitrd = \"busybox\"\n\
    cmdline = \"quiet\"\n[[vm.net]]\nvlan = 10\n[[vm.net]]\nvlan = 11\n\
    [[vm]]\nname = \"two\"\nmemory = \"128M\"\nkernel = \"debian:6.1\"\ninitrd = \"busybox\"\n\
    cmdline = \"quiet\"\n[[vm.net]]\nvlan = 10\n[[vm.net]]\nvlan = 12\n";

/// Guests reach each other on the VLAN that they share and not on the others, nor from an address that is not
/// theirs; the monitor counts what the switch forwarded and refused.
fn vlans(arch: Arch) -> Result<()> {
    let file = VmFile::parse(VLANS, "network.rs")?;
    let mut emulator = vmfile::boot(&file, arch, Path::new(""), LIMIT)?;
    emulator.expect(SHELL)?;
    for number in [1, 2] {
        if number == 2 {
            shell_of(&mut emulator, number)?;
        }
        for (device, network) in [("eth0", "10.1.0"), ("eth1", "10.2.0")] {
            let up = format!(
                "ip address add {network}.{number}/24 dev {device}; ip link set {device} up"
            );
            shell(&mut emulator, &up)?;
        }
    }
    let mut ping = |address: &str, expected: &str| -> Result<()> {
        let text = shell(&mut emulator, &format!("ping -c 3 -W 1 {address} | grep packets"))?;
        ensure!(text.contains(expected), "ping {address}: {text}");
        Ok(())
    };
    ping("10.1.0.1", " 3 packets received")?;
    ping("10.2.0.1", " 0 packets received")?;
    let (_, received, refused) = counters(&mut emulator, "two", 0)?;
    ensure!(received >= 3 && refused == 0, "{received} received, {refused} refused");
    for vm in ["one", "two"] {
        let (_, received, _) = counters(&mut emulator, vm, 1)?;
        ensure!(received == 0, "{vm} received {received} frames of another VLAN");
    }
    let (sent, ..) = counters(&mut emulator, "two", 1)?;
    ensure!(sent != 0, "two asked nobody");

    focus_on(&mut emulator, 2)?;
    let other = "ip link set eth0 down; ip link set eth0 address 02:aa:bb:cc:dd:ee; ip link set eth0 up; \
                 ping -c 2 -W 1 10.1.0.1 | grep packets";
    let text = shell(&mut emulator, other)?;
    ensure!(text.contains(" 0 packets received"), "from another address: {text}");
    let (.., refused) = counters(&mut emulator, "two", 0)?;
    ensure!(refused != 0, "nothing was refused");
    Ok(())
}

/// Frames that a port of a machine sent, received, and had refused for its address.
fn counters(emulator: &mut Emulator, vm: &str, net: usize) -> Result<(u64, u64, u64)> {
    let text = ask(emulator, &format!("stats {vm}"))?;
    let start = format!("  net {net}: ");
    let line = text.lines().find(|line| line.starts_with(&start));
    let line = line.with_context(|| format!("no {start:?} in {text}"))?;
    let number = |word: &str| -> Result<u64> {
        let rest = line.split_once(word).with_context(|| format!("no {word:?}: {line}"))?.1;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().with_context(|| format!("{word:?}: {line}"))
    };
    Ok((number("sent ")?, number("received ")?, number("from another's address ")?))
}
