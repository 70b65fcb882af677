//! Serial ports, and which of them is for messages.

use super::Interrupt;
use crate::tree::{Node, Tree};
use crate::{PhysicalAddress, Region};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// More serial ports than a hypervisor looks at.
const MAX_SERIAL_PORTS: usize = 32;

/// Programming model of a serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    /// Arm PrimeCell PL011, or the generic UART of Arm's base system architecture, its subset.
    Pl011,
    /// The auxiliary "mini" UART of Broadcom's BCM2835 family, a 16550 of its own clock.
    Bcm2835Aux,
    /// The UART of Apple's chips, of Samsung's S5L line.
    S5l,
    /// The 8250 and 16550 family.
    Ns16550,
    /// Another one; its `compatible`.
    Unknown(String),
}

/// A kind with the names that it goes by, and its register layout where the tree doesn't say.
struct KnownKind {
    compatible: &'static [&'static str],
    kind: ConsoleKind,
    reg_shift: u32,
    io_width: u32,
}

const KNOWN_KINDS: &[KnownKind] = &[
    KnownKind {
        compatible: &["arm,pl011", "arm,sbsa-uart"],
        kind: ConsoleKind::Pl011,
        reg_shift: 0,
        io_width: 4,
    },
    KnownKind {
        compatible: &["brcm,bcm2835-aux-uart"],
        kind: ConsoleKind::Bcm2835Aux,
        reg_shift: 2,
        io_width: 4,
    },
    KnownKind {
        compatible: &["apple,s5l-uart"],
        kind: ConsoleKind::S5l,
        reg_shift: 0,
        io_width: 4,
    },
    KnownKind {
        compatible: &[
            "ns16550a",
            "ns16550",
            "ns8250",
            "ns16450",
            "snps,dw-apb-uart",
            "nvidia,tegra20-uart",
        ],
        kind: ConsoleKind::Ns16550,
        reg_shift: 0,
        io_width: 1,
    },
];

/// A serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// How to program it.
    pub kind: ConsoleKind,
    /// Its registers as the CPU sees them.
    pub registers: Region,
    /// Registers are 2 to the power of this many bytes apart. Only the 16550 family needs it.
    pub reg_shift: u32,
    /// Width of register accesses in bytes: 1, 2 or 4.
    pub io_width: u32,
    /// Its interrupt, if it reaches a known controller.
    pub interrupt: Option<Interrupt>,
    /// The frequency that baud rates are divided from, in Hz, if the tree knows it.
    pub clock_hz: Option<u32>,
    /// What stands after the colon of `stdout-path`, such as `115200n8`.
    pub options: Option<String>,
    /// Path of the node.
    pub node: String,
}

impl Console {
    /// The port of a node; `None` if the CPU can't reach its registers.
    fn of(node: &Node<'_>) -> Option<Self> {
        let known = KNOWN_KINDS.iter().find(|known| {
            node.compatible().any(|compatible| known.compatible.contains(&compatible))
        });
        let (kind, reg_shift, io_width) = match known {
            Some(known) => (known.kind.clone(), known.reg_shift, known.io_width),
            None => {
                let compatible = node.compatible().next().unwrap_or_default();
                (ConsoleKind::Unknown(compatible.to_owned()), 0, 4)
            }
        };
        let registers = node.mapped_reg(0).ok()?;
        let registers = match node.u32("reg-offset") {
            Some(offset) => {
                let base: PhysicalAddress = registers.base().checked_add(offset.into())?;
                Region::between(base, registers.end())?
            }
            None => registers,
        };
        Some(Self {
            kind,
            registers,
            reg_shift: node.u32("reg-shift").filter(|shift| *shift <= 4).unwrap_or(reg_shift),
            io_width: node
                .u32("reg-io-width")
                .filter(|width| matches!(width, 1 | 2 | 4))
                .unwrap_or(io_width),
            interrupt: Interrupt::first_of(node),
            clock_hz: clock(node),
            options: None,
            node: node.path().to_string(),
        })
    }
}

/// `clock-frequency` of the port, or that of its first clock.
fn clock(node: &Node<'_>) -> Option<u32> {
    node.u32("clock-frequency")
        .or_else(|| node.reference("clocks")?.u32("clock-frequency"))
        .filter(|frequency| *frequency != 0)
}

/// The port of `stdout-path`, or else of the alias `serial0`. `status` isn't asked: a firmware that prints there has
/// enabled it.
pub(super) fn chosen(tree: &Tree) -> Option<Console> {
    let chosen = tree.node("/chosen");
    let property = |name| chosen.and_then(|chosen| chosen.str(name));
    let stdout = property("stdout-path").or_else(|| property("linux,stdout-path"));
    if let Some((node, options)) = stdout.and_then(|reference| tree.resolve(reference))
        && let Some(console) = Console::of(&node)
    {
        return Some(Console { options: options.map(ToOwned::to_owned), ..console });
    }
    Console::of(&tree.alias("serial0").filter(Node::is_reachable)?)
}

/// All enabled ports of known kinds, in document order.
pub(super) fn serial_ports(tree: &Tree) -> Vec<Console> {
    tree.nodes()
        .filter(|node| {
            node.compatible().any(|compatible| {
                KNOWN_KINDS.iter().any(|known| known.compatible.contains(&compatible))
            })
        })
        .filter(Node::is_reachable)
        .take(MAX_SERIAL_PORTS)
        .filter_map(|node| Console::of(&node))
        .collect()
}

/// The pin controller of BCM2835 to BCM2711.
pub(super) fn pins(tree: &Tree) -> Option<Region> {
    tree.compatible(&["brcm,bcm2711-gpio", "brcm,bcm2835-gpio"]).next()?.mapped_reg(0).ok()
}
