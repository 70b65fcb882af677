//! `cargo xtask run`: from the sources to a guest's shell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::arch::Arch;
use crate::bochs;
use crate::build;
use crate::pack;
use crate::process;
use crate::qemu::{self, Machine};
use crate::relay;
use crate::setup;
use crate::vmfile::{Size, VmFile};
use crate::workspace::Workspace;

/// Memory of the emulated host beside that of its guests.
const SPARE_MEMORY: u64 = 512 << 20;

/// Memory of the emulated host, unless its guests need more.
const USUAL_MEMORY: u64 = 2 << 30;

const USUAL_CPUS: u32 = 4;

/// Programs that emulate hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Emulator {
    /// All machines; PCs with AMD-V.
    #[default]
    Qemu,
    /// PCs with VT-x, from an ISO. It interprets every instruction: minutes to a shell.
    Bochs,
}

/// Options of `cargo xtask run`.
#[derive(Debug, Args)]
pub struct Options {
    /// Architecture of the machine
    #[arg(long, value_enum, default_value_t)]
    pub arch: Arch,
    /// The VM file [default: vms/linux.toml, one Debian guest]
    #[arg(long, value_name = "FILE")]
    pub vm: Option<PathBuf>,
    /// Run one of the small guests instead
    #[arg(long, value_name = "NAME", conflicts_with_all = ["vm", "kernel", "initrd"])]
    pub guest: Option<String>,
    /// Kernel of the guest: a file, debian:6.1, debian:6.12 or u-boot
    #[arg(long, value_name = "FILE|NAME")]
    pub kernel: Option<String>,
    /// RAM disk of the guest: a file, or busybox
    #[arg(long, value_name = "FILE|NAME")]
    pub initrd: Option<String>,
    /// Kernel command line of the guest
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Number of the guest's CPUs
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// The program that emulates the host
    #[arg(long, value_enum, default_value_t)]
    pub emulator: Emulator,
    /// The emulated host.
    #[command(flatten)]
    pub machine: Machine,
    /// Wait for a debugger on TCP port 1234
    #[arg(long)]
    pub gdb: bool,
    /// Print the emulator's command line and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Sets up, builds, packs and starts the emulator; returns the emulator's exit code.
///
/// # Errors
/// When one of these steps fails.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if options.emulator == Emulator::Bochs
        && (options.arch != Arch::X86_64 || options.gdb || options.dry_run)
    {
        bail!("Bochs emulates PCs: --arch x86_64, without --gdb and --dry-run");
    }
    let (file, base) = vm_file(workspace, options)?;
    let guests: u64 = file.vms.iter().map(|vm| vm.get_ref().memory.0).sum();
    let memory = file.machine.memory.map_or(USUAL_MEMORY, |Size(memory)| memory);
    let memory = Size(memory.max(guests.saturating_add(SPARE_MEMORY)));
    let cpus = options.machine.smp.or(file.machine.cpus).unwrap_or(USUAL_CPUS);
    let arch = options.arch;
    let bundle = workspace.target().join("bundle.itb");
    let mut command = options.machine.command(options.arch, cpus, memory)?;
    file.host_devices(&base).add_to(&mut command, arch);
    qemu::boot(&mut command, &workspace.image(arch), &bundle);
    if options.gdb {
        command.args(["-s", "-S"]);
    }
    if options.dry_run {
        println!("{}", process::shown(&command));
        return Ok(ExitCode::SUCCESS);
    }

    setup::run(workspace, &setup::Options { arch: Some(arch), ..Default::default() })?;
    if let Some(name) = &options.guest {
        let known = build::guest_names(workspace, arch)?;
        if !known.contains(name) {
            bail!("no guest {name:?}; there are {}", known.join(", "));
        }
    }
    if file.small_guests().next().is_some() || options.guest.is_some() {
        build::guests(workspace, arch)?;
    }
    build::image(workspace, arch)?;
    pack::write(&bundle, &pack::bundle(&file, &base, workspace, arch)?)?;
    println!("Ctrl-A 1, 2, ...: console of a VM; Ctrl-A m: monitor. Ctrl-] x quits the emulator;");
    println!("`poweroff` in every guest ends it in good order.");
    println!("`cargo xtask monitor` attaches from another terminal.");
    if options.emulator == Emulator::Bochs {
        let machine = bochs::Machine {
            cpu: options.machine.cpu.clone().unwrap_or_else(|| bochs::CPU.to_string()),
            cpus: options.machine.smp.unwrap_or(1),
            memory: guests.saturating_add(SPARE_MEMORY).div_ceil(1 << 20),
            feature_control: None,
        };
        let folder = workspace.target().join("bochs");
        let bundle = fs::read(&bundle)?;
        return bochs::Setup::new(&folder, &machine, &workspace.image(arch), Some(&bundle))?
            .run(&workspace.socket());
    }
    if options.gdb {
        println!(
            "waiting for a debugger: gdb -ex 'target remote :1234' {}",
            build::artifact(workspace, arch, arch.program()).display()
        );
    }
    let status = relay::run(&workspace.socket(), || relay::Line::start(&mut command))?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        None => bail!("the emulator died ({status})"),
    }
}

/// The VM file that the options mean, and the folder its paths start from.
fn vm_file(workspace: &Workspace, options: &Options) -> Result<(VmFile, PathBuf)> {
    let here = PathBuf::new();
    let (mut file, base) = match (&options.guest, &options.vm) {
        (Some(name), _) => {
            let kernel = build::guest(workspace, options.arch, name);
            let text = format!(
                "[[vm]]\nname = {}\nvcpus = 4\nmemory = \"64M\"\nkernel = {}\n",
                toml::Value::from(name.as_str()),
                toml::Value::from(kernel.display().to_string()),
            );
            (VmFile::parse(&text, "--guest")?, here)
        }
        (None, Some(path)) => {
            let base = path.parent().unwrap_or(Path::new("")).to_path_buf();
            (VmFile::load(path)?, base)
        }
        (None, None) => {
            let path = workspace.root().join("vms/linux.toml");
            (VmFile::load(&path)?, workspace.root().join("vms"))
        }
    };
    // What the user asks for counts more than what the file says the machine has.
    file.machine.cpus = options.machine.smp.or(file.machine.cpus);
    if options.memory.is_some() {
        file.machine.memory = None;
    }
    let overrides = options.kernel.is_some()
        || options.initrd.is_some()
        || options.cmdline.is_some()
        || options.cpus.is_some()
        || options.memory.is_some();
    if overrides {
        let [vm] = &mut file.vms[..] else {
            bail!(
                "the VM file describes {} VMs; --kernel, --initrd, --cmdline, --cpus and \
                 --memory work with a file that describes one",
                file.vms.len()
            );
        };
        let vm = vm.get_mut();
        // A path on the command line is relative to the user's folder, not to the VM file.
        let from_here = |name: &String| match setup::Guest::from_name(name) {
            Some(_) => Ok(name.clone()),
            None => std::path::absolute(name).map(|path| path.display().to_string()),
        };
        if let Some(kernel) = &options.kernel {
            vm.kernel = from_here(kernel)?;
            vm.raw = None;
            if setup::Guest::from_name(kernel) == Some(setup::Guest::UBoot) {
                vm.initrd = None;
            }
        }
        if let Some(initrd) = &options.initrd {
            vm.initrd = Some(from_here(initrd)?);
        }
        vm.cmdline = options.cmdline.clone().unwrap_or_else(|| vm.cmdline.clone());
        vm.vcpus = options.cpus.unwrap_or(vm.vcpus);
        vm.memory = options.memory.unwrap_or(vm.memory);
    }
    for vm in &file.vms {
        let vm = vm.get_ref();
        vm.check(&file.machine).with_context(|| format!("vm {:?}", vm.name))?;
    }
    Ok((file, base))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Wrapper::try_parse_from([&["run"], arguments].concat()).unwrap().options
    }

    #[test]
    fn options_override_the_only_vm() {
        let workspace = Workspace::locate();
        let arguments =
            ["--kernel", "debian:6.12", "--cpus", "2", "--memory", "256M", "--cmdline", "quiet"];
        let (file, _) = vm_file(&workspace, &options(&arguments)).unwrap();
        let vm = file.vms[0].get_ref();
        assert_eq!((vm.vcpus, vm.memory, &*vm.cmdline), (2, Size(256 << 20), "quiet"));
        assert_eq!((&*vm.kernel, vm.initrd.as_deref()), ("debian:6.12", Some("busybox")));
    }

    #[test]
    fn a_file_on_the_command_line_is_relative_to_the_user() {
        let (file, _) = vm_file(&Workspace::locate(), &options(&["--kernel", "my/Image"])).unwrap();
        assert!(Path::new(&file.vms[0].get_ref().kernel).is_absolute());
    }

    #[test]
    fn impossible_options_are_refused() {
        let workspace = Workspace::locate();
        assert!(vm_file(&workspace, &options(&["--cpus", "65"])).is_err());
        assert!(Wrapper::try_parse_from(["run", "--gic", "4"]).is_err());
        assert!(Wrapper::try_parse_from(["run", "--memory", "12X"]).is_err());
        assert!(Wrapper::try_parse_from(["run", "--guest", "hello", "--vm", "f"]).is_err());
    }
}
