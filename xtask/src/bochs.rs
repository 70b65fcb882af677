//! Bochs: a PC whose CPUs have VT-x with EPT, which QEMU does not emulate.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::media::pc;
use crate::packages;
use crate::process;
use crate::relay;

/// What every emulated CPU is unless the user says otherwise: VT-x with EPT, VPID and unrestricted
/// guests.
pub const CPU: &str = "corei7_skylake_x";

/// What Bochs writes to its log when software turns the PC off.
const TURNED_OFF: &str = "soft power off";

/// Time between two looks whether the emulator has connected its serial port.
const LOOK: Duration = Duration::from_millis(20);

/// Instructions in a second of the PC's time.
const SPEED: u32 = 200_000_000;

/// The PC.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Model of its CPUs.
    pub cpu: String,
    /// Number of its CPUs. They run one after the other, so that more make it slower.
    pub cpus: u32,
    /// Memory in MiB, at most 2048.
    pub memory: u64,
    /// What the firmware leaves in IA32_FEATURE_CONTROL, which says whether VT-x may be used, if
    /// not the usual permission. The firmware is then one without ACPI tables.
    pub feature_control: Option<u64>,
}

impl Machine {
    /// The BIOS that takes part: the usual one has VT-x allowed for ever.
    const fn firmware(&self) -> &'static str {
        match self.feature_control {
            None => "/usr/share/bochs/BIOS-bochs-latest",
            Some(_) => "/usr/share/bochs/BIOS-bochs-legacy",
        }
    }

    /// Commands for GRUB before it loads anything.
    fn grub_commands(&self) -> String {
        self.feature_control
            .map_or_else(String::new, |value| format!("insmod wrmsr\nwrmsr 0x3a {value:#x}\n"))
    }
}

/// A folder with all that Bochs reads and writes, and where its serial port leads.
#[derive(Debug)]
pub struct Setup {
    folder: PathBuf,
    /// The emulator connects its serial port here.
    serial: TcpListener,
}

impl Setup {
    /// Prepares `folder`: an ISO of `image` and `bundle`, and the description of `machine`.
    ///
    /// # Errors
    /// When a program is absent or a file can't be written.
    pub fn new(
        folder: &Path,
        machine: &Machine,
        image: &Path,
        bundle: Option<&[u8]>,
    ) -> Result<Self> {
        packages::install(&packages::BOCHS)?;
        fs::create_dir_all(folder)?;
        let serial = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // A look for the emulator must not wait for one that did not start.
        serial.set_nonblocking(true)?;
        let port = serial.local_addr()?.port();
        let setup = Setup { folder: folder.to_path_buf(), serial };
        pc::write_with(&setup.file("pc.iso"), image, bundle, &machine.grub_commands())?;
        fs::write(setup.file("bochsrc"), configuration(folder, port, machine))?;
        // The emulator comes with a debugger, which has to be told to go.
        fs::write(setup.file("go"), "c\n")?;
        Ok(setup)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The command that starts the PC. It ends when the PC is turned off.
    pub fn command(&self) -> Command {
        let mut command = Command::new("bochs");
        command
            .arg("-q")
            .arg("-f")
            .arg(self.file("bochsrc"))
            .arg("-rc")
            .arg(self.file("go"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts the PC; the stream is its serial port.
    ///
    /// # Errors
    /// When the emulator can't be started or gives up at once.
    pub fn start(&self) -> Result<(Child, TcpStream)> {
        let mut command = self.command();
        let mut child = command
            .spawn()
            .with_context(|| format!("can't start `{}`", process::shown(&command)))?;
        loop {
            match self.serial.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    // What is typed is typed at once.
                    stream.set_nodelay(true)?;
                    return Ok((child, stream));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if child.try_wait()?.is_some() {
                bail!("the emulator gave up; {} says why", self.file("log").display());
            }
            thread::sleep(LOOK);
        }
    }

    /// Whether the PC was turned off, as opposed to the emulator having given up.
    pub fn was_turned_off(&self) -> bool {
        fs::read_to_string(self.file("log")).is_ok_and(|log| log.contains(TURNED_OFF))
    }

    /// Starts the PC with its serial port on the terminal, and on `socket` for others, until it is
    /// turned off.
    ///
    /// # Errors
    /// When the emulator can't be started or gives up.
    pub fn run(&self, socket: &Path) -> Result<ExitCode> {
        let status = relay::run(socket, || {
            let (child, serial) = self.start()?;
            let input = Box::new(serial.try_clone()?);
            Ok(relay::Line { child, input, output: Box::new(serial), escapes: true })
        })?;
        if status.code().is_none() {
            // The user had it killed.
            return Ok(ExitCode::SUCCESS);
        }
        if !self.was_turned_off() {
            bail!("the emulator gave up; {} says why", self.file("log").display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The description of `machine` for the emulator: files in `folder`, and its serial port on TCP
/// port `port` of this host.
fn configuration(folder: &Path, port: u16, machine: &Machine) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let Machine { cpu, cpus, memory, .. } = machine;
    format!(
        "plugin_ctrl: unmapped=true, biosdev=true, speaker=false, extfpuirq=true, \
         parallel=false, serial=true\n\
         config_interface: textconfig\n\
         display_library: rfb, options=\"timeout=0\"\n\
         memory: guest={memory}, host={memory}\n\
         romimage: file={firmware}\n\
         vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
         pci: enabled=1, chipset=i440fx\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path={iso}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=socket-client, dev={host}:{port}\n\
         cpu: model={cpu}, count={cpus}, ips={SPEED}, reset_on_triple_fault=0\n\
         log: {log}\n\
         panic: action=fatal\n\
         clock: sync=none\n",
        firmware = machine.firmware(),
        iso = path("pc.iso"),
        host = Ipv4Addr::LOCALHOST,
        log = path("log"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_the_machine_and_its_files() {
        let machine =
            Machine { cpu: CPU.to_string(), cpus: 2, memory: 1024, feature_control: None };
        let text = configuration(Path::new("/there"), 4321, &machine);
        for line in [
            "memory: guest=1024, host=1024",
            "romimage: file=/usr/share/bochs/BIOS-bochs-latest",
            "ata0-master: type=cdrom, path=/there/pc.iso, status=inserted",
            "com1: enabled=1, mode=socket-client, dev=127.0.0.1:4321",
            "cpu: model=corei7_skylake_x, count=2, ips=200000000, reset_on_triple_fault=0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        assert_eq!(machine.grub_commands(), "");
        let locked = Machine { feature_control: Some(1), ..machine };
        assert!(configuration(Path::new("/"), 1, &locked).contains("BIOS-bochs-legacy"));
        assert_eq!(locked.grub_commands(), "insmod wrmsr\nwrmsr 0x3a 0x1\n");
    }
}
