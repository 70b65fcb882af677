//! A simulated M1 and M2: `tests/machines` makes it of QEMU's `virt`; this is what iBoot and m1n1 do before the image starts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::endian::LittleEndian;
use machines::m1;
use xtask::arch::Arch;
use xtask::boards::File;
use xtask::setup::Guest;
use xtask::workspace::Workspace;
use xtask::{build, process};

use crate::emulator::Emulator;
use crate::linux::{self, PROMPT, answer};
use crate::{Case, case, host};

const LIMIT: Duration = Duration::from_secs(240);
const VCPUS: u32 = 2;
/// Accesses to trapped registers from start to power-off: without those of interrupts there are about a thousand.
const LEAST_TRAPS: u64 = 4000;
/// The CPUs of the tree that are not there, which m1n1 overwrites with NOP tokens.
const DEAD: [&str; 4] = ["cpu@2", "cpu@3", "cpu@10102", "cpu@10103"];
/// What is left of 4 GiB when the display and others have theirs.
const MEMORY_SIZE: u64 = 0xf000_0000;
/// Room for the tree.
const TREE_SIZE: u64 = 0x1_0000;

pub(crate) fn trials(full: bool) -> Vec<Case> {
    let m1 = case("apple::a_simulated_m1_runs_linux", || linux(File::MacTree, "M1, 2020"));
    let m2 = case("apple::a_simulated_m2_runs_linux", || linux(File::MacM2Tree, "M2, 2023"));
    if full { vec![m1, m2] } else { vec![m1] }
}

fn linux(board: File, model: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let vm = linux::debian(Guest::Debian61, VCPUS, "")?;
    let bundle = xtask::fit::write(Arch::Aarch64, &[vm])?;
    fs::write(at("bundle.itb"), &bundle)?;
    fs::write(at("bunshin.img"), adapted_image()?)?;
    fs::write(at("tree.dtb"), tree(board, folder.path(), bundle.len() as u64)?)?;

    let mut command = Command::new(Arch::Aarch64.qemu());
    command
        .args(["-M", "virt,secure=on,virtualization=on,gic-version=3"])
        .args(["-cpu", "max,x-rme=on,pauth-impdef=on,cntfrq=24000000"])
        .args(["-smp", &m1::AFFINITIES.len().to_string(), "-m", "256M,slots=4,maxmem=64G"])
        .args(["-object", "memory-backend-ram,id=memory,size=4G,reserve=off"])
        .args(["-device", &format!("pc-dimm,memdev=memory,addr={:#x}", m1::MEMORY)])
        .args(["-display", "none", "-monitor", "none", "-nodefaults", "-serial", "stdio"])
        .arg("-bios")
        .arg(build::machine(&Workspace::locate(), "simulated_m1"));
    for (name, address) in
        [("tree.dtb", m1::TREE), ("bunshin.img", m1::IMAGE), ("bundle.itb", m1::BUNDLE)]
    {
        let file = at(name);
        let loader = format!("loader,file={},addr={address:#x},force-raw=on", file.display());
        command.args(["-device", &loader]);
    }
    let mut emulator = Emulator::start(command, LIMIT, Some(folder))?;
    emulator.expect(&format!("on Apple Mac mini ({model})"))?;
    emulator.expect("4 of 4 CPUs")?;
    emulator.expect("AIC, E2H=1")?;
    emulator.expect("granule 16 KiB")?;
    emulator.expect(PROMPT)?;
    ensure!(answer(&mut emulator, "nproc")? == "2", "nproc does not say 2");
    emulator.send("reboot\n")?;
    emulator.expect("vm \"linux\": started")?;
    emulator.expect(PROMPT)?;
    ensure!(answer(&mut emulator, "sleep 1; nproc")? == "2", "nproc does not say 2");
    emulator.send("poweroff\n")?;
    // Each interrupt's acknowledging and ending traps, since the virtual CPU interface may raise SErrors.
    let exits = emulator.expect_line("vm \"linux\": exits: ")?;
    let traps = exits
        .split(", ")
        .find_map(|kind| kind.strip_prefix("register ")?.parse::<u64>().ok())
        .with_context(|| format!("no count of register accesses: {exits}"))?;
    ensure!(traps > LEAST_TRAPS, "only {traps} accesses to registers trapped");
    emulator.expect("this machine cannot turn itself off")?;
    ensure!(!emulator.text().contains("simulated M1:"), "{}", emulator.report());
    Ok(())
}

/// The image with `SMC` for what an emulated CPU does not do as Apple's.
fn adapted_image() -> Result<Vec<u8>> {
    let program = build::artifact(&Workspace::locate(), Arch::Aarch64, "bunshin");
    let program = fs::read(&program).with_context(|| format!("{}: absent", program.display()))?;
    let text = ElfBytes::<LittleEndian>::minimal_parse(&program)?
        .section_header_by_name(".text")?
        .context("the image has no section .text")?;
    let mut image = fs::read(host::image()?)?;
    let code = image.get_mut(..usize::try_from(text.sh_addr + text.sh_size)?);
    let mut replaced = 0;
    for word in code.context("the image is shorter than its code")?.chunks_exact_mut(4) {
        let instruction = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        if let Some(replacement) = m1::replacement(instruction) {
            word.copy_from_slice(&replacement.to_le_bytes());
            replaced += 1;
        }
    }
    ensure!(replaced > 20, "only {replaced} instructions were replaced");
    Ok(image)
}

/// The device tree as m1n1 leaves it.
fn tree(board: File, folder: &Path, bundle: u64) -> Result<Vec<u8>> {
    let source = folder.join("tree.dts");
    let compile = |input: &str, output: &str, from: &Path, to: &Path| {
        let mut dtc = Command::new("dtc");
        dtc.args(["-q", "-I", input, "-O", output]).arg("-o").arg(to).arg(from);
        process::output(&mut dtc).map(drop)
    };
    compile("dtb", "dts", &board.path(&Workspace::locate()), &source)?;
    let cells = |value: u64| format!("{:#x} {:#x}", value >> 32, value & 0xffff_ffff);
    let mut text = fs::read_to_string(&source)?.replacen(
        "/dts-v1/;",
        &format!(
            "/dts-v1/;\n/memreserve/ {:#x} {:#x};\n/memreserve/ {:#x} {TREE_SIZE:#x};\n/memreserve/ {:#x} {bundle:#x};\n",
            m1::MEMORY, m1::BOOT_LOADER_SIZE, m1::TREE, m1::BUNDLE,
        ),
        1,
    );
    // Blocks that follow replace the properties of the same nodes.
    text += &format!(
        "/ {{ memory@800000000 {{ reg = <{} {}>; }};\n chosen {{ linux,initrd-start = <{}>; linux,initrd-end = <{}>; \
         rng-seed = [00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f]; }};\n cpus {{\n",
        cells(m1::MEMORY),
        cells(MEMORY_SIZE),
        cells(m1::BUNDLE),
        cells(m1::BUNDLE + bundle),
    );
    for (cpu, affinity) in m1::AFFINITIES.iter().enumerate() {
        let release = cells(m1::release_address(cpu));
        text += &format!("  cpu@{affinity:x} {{ cpu-release-addr = <{release}>; }};\n");
    }
    text += " };\n};\n";
    fs::write(&source, text)?;
    let file = folder.join("complete.dtb");
    compile("dts", "dtb", &source, &file)?;
    let mut tree = fs::read(&file)?;
    ensure!((tree.len() as u64) < TREE_SIZE, "the tree is too long");
    for name in DEAD {
        remove_node(&mut tree, name).with_context(|| format!("no node {name} in the tree"))?;
    }
    Ok(tree)
}

/// Overwrites a node with NOP tokens, as libfdt does (Devicetree Specification 5.4).
fn remove_node(tree: &mut [u8], name: &str) -> Option<()> {
    const BEGIN_NODE: u32 = 1;
    const END_NODE: u32 = 2;
    const PROPERTY: u32 = 3;
    const NOP: [u8; 4] = 4u32.to_be_bytes();
    let word =
        |tree: &[u8], at: usize| tree.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let begin = [&BEGIN_NODE.to_be_bytes()[..], name.as_bytes(), b"\0"].concat();
    let mut at = tree.windows(begin.len()).position(|window| window == begin)?;
    let mut depth = 0;
    loop {
        let token = word(tree, at)?;
        let mut end = at + 4;
        match token {
            BEGIN_NODE => {
                depth += 1;
                end += tree.get(end..)?.iter().position(|byte| *byte == 0)? + 1;
            }
            END_NODE => depth -= 1,
            PROPERTY => end += 8 + word(tree, at + 4)? as usize,
            _ => {}
        }
        end = end.next_multiple_of(4);
        for token in tree.get_mut(at..end)?.chunks_exact_mut(4) {
            token.copy_from_slice(&NOP);
        }
        at = end;
        if depth == 0 {
            return Some(());
        }
    }
}
