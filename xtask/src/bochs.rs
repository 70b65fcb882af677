//! Bochs: a PC whose CPUs have VT-x with EPT, which QEMU does not emulate.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::media::pc;
use crate::packages;
use crate::process;

/// What every emulated CPU is unless the user says otherwise: VT-x with EPT, VPID and unrestricted
/// guests.
pub const CPU: &str = "corei7_skylake_x";

/// What Bochs writes to its log when software turns the PC off.
const TURNED_OFF: &str = "soft power off";

/// Time between two looks at the serial port.
const LOOK: Duration = Duration::from_millis(50);

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
}

/// A folder with all that Bochs reads and writes.
#[derive(Debug)]
pub struct Setup {
    folder: PathBuf,
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
        let setup = Setup { folder: folder.to_path_buf() };
        pc::write(&setup.file("pc.iso"), image, bundle)?;
        fs::write(setup.file("bochsrc"), setup.configuration(machine))?;
        // The emulator comes with a debugger, which has to be told to go.
        fs::write(setup.file("go"), "c\n")?;
        Ok(setup)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn configuration(&self, machine: &Machine) -> String {
        let path = |name: &str| self.file(name).display().to_string();
        let Machine { cpu, cpus, memory } = machine;
        format!(
            "plugin_ctrl: unmapped=true, biosdev=true, speaker=false, extfpuirq=true, \
             parallel=false, serial=true\n\
             config_interface: textconfig\n\
             display_library: rfb, options=\"timeout=0\"\n\
             memory: guest={memory}, host={memory}\n\
             romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
             vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
             pci: enabled=1, chipset=i440fx\n\
             ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
             ata0-master: type=cdrom, path={iso}, status=inserted\n\
             boot: cdrom\n\
             com1: enabled=1, mode=file, dev={serial}\n\
             cpu: model={cpu}, count={cpus}, ips={SPEED}, reset_on_triple_fault=0\n\
             log: {log}\n\
             panic: action=fatal\n\
             clock: sync=none\n",
            iso = path("pc.iso"),
            serial = path("serial"),
            log = path("log"),
        )
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

    /// Starts the PC; what it says on its serial port grows in the file returned.
    ///
    /// # Errors
    /// When the emulator can't be started.
    pub fn start(&self) -> Result<(Child, File)> {
        let serial = self.file("serial");
        fs::write(&serial, "")?;
        let mut command = self.command();
        let child = command
            .spawn()
            .with_context(|| format!("can't start `{}`", process::shown(&command)))?;
        Ok((child, File::open(serial)?))
    }

    /// Whether the PC was turned off, as opposed to the emulator having given up.
    pub fn was_turned_off(&self) -> bool {
        fs::read_to_string(self.file("log")).is_ok_and(|log| log.contains(TURNED_OFF))
    }

    /// Starts the PC and shows its serial port until it is turned off.
    ///
    /// # Errors
    /// When the emulator can't be started or gives up.
    pub fn run(&self) -> Result<ExitCode> {
        let (mut child, mut serial) = self.start()?;
        let mut out = io::stdout();
        let mut text = Vec::new();
        loop {
            let ended = child.try_wait()?.is_some();
            text.clear();
            serial.read_to_end(&mut text)?;
            out.write_all(&text)?;
            out.flush()?;
            if ended {
                break;
            }
            thread::sleep(LOOK);
        }
        if !self.was_turned_off() {
            bail!("the emulator gave up; {} says why", self.file("log").display());
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_the_machine_and_its_files() {
        let setup = Setup { folder: PathBuf::from("/there") };
        let machine = Machine { cpu: CPU.to_string(), cpus: 2, memory: 1024 };
        let text = setup.configuration(&machine);
        for line in [
            "memory: guest=1024, host=1024",
            "ata0-master: type=cdrom, path=/there/pc.iso, status=inserted",
            "com1: enabled=1, mode=file, dev=/there/serial",
            "cpu: model=corei7_skylake_x, count=2, ips=200000000, reset_on_triple_fault=0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
    }
}
