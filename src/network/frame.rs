//! Ethernet frames (IEEE 802.3), with tags of virtual LANs (IEEE 802.1Q),
//! without preamble and check sequence.

use core::fmt;

/// Destination, source and type.
pub const HEADER: usize = 14;
/// Bytes of payload in a frame.
pub const MTU: usize = 1500;
/// Bytes of a tag.
const TAG: usize = 4;
/// Longest frame in bytes, without a tag.
pub const LONGEST: usize = HEADER + MTU;
/// Longest frame in bytes, with a tag.
pub const LONGEST_TAGGED: usize = LONGEST + TAG;
/// Destination and source; a tag comes after them.
const ADDRESSES: usize = 12;
/// Type of a tagged frame.
const TAGGED: [u8; 2] = 0x8100u16.to_be_bytes();
/// The virtual LAN in a tag's control information; above it is the priority.
const VID_MASK: u16 = 0xfff;
/// The highest number, which is reserved.
const RESERVED: u16 = 0xfff;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether it names a group of stations, all of them among these.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A virtual LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// The LAN of frames without a tag.
    pub const UNTAGGED: VlanId = VlanId(0);

    /// LAN `number`; `None` unless that is 0, for frames without a tag, or 1 to 4094.
    pub const fn new(number: u16) -> Option<Self> {
        if number < RESERVED { Some(VlanId(number)) } else { None }
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A frame, taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) destination: MacAddress,
    pub(super) source: MacAddress,
    /// Of its tag, if it has one. Number 0 is a tag for priority alone.
    pub(super) tag: Option<u16>,
    addresses: &'a [u8; ADDRESSES],
    /// Type and payload, after the tag.
    rest: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes `whole` apart; `None` when that is no frame of the right length.
    pub(super) fn parse(whole: &'a [u8]) -> Option<Self> {
        let (addresses, mut rest) = whole.split_first_chunk::<ADDRESSES>()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *addresses;
        let mut tag = None;
        if let Some(([t0, t1, high, low], after)) = rest.split_first_chunk::<TAG>()
            && [*t0, *t1] == TAGGED
        {
            tag = Some(u16::from_be_bytes([*high, *low]) & VID_MASK);
            rest = after;
        }
        // The type, and no more than fits.
        let most = LONGEST.saturating_sub(ADDRESSES);
        (2..=most).contains(&rest.len()).then_some(Frame {
            destination: MacAddress([a, b, c, d, e, f]),
            source: MacAddress([g, h, i, j, k, l]),
            tag,
            addresses,
            rest,
            whole,
        })
    }

    /// The frame with a tag of `vlan`, or without one, in `space` if it has to be changed.
    pub(super) fn with_tag<'s>(
        &self,
        vlan: VlanId,
        tagged: bool,
        space: &'s mut [u8; LONGEST_TAGGED],
    ) -> &'s [u8]
    where
        'a: 's,
    {
        let tagged = tagged && vlan != VlanId::UNTAGGED;
        if !tagged && self.tag.is_none() || tagged && self.tag == Some(vlan.get()) {
            return self.whole;
        }
        let tag = if tagged { Some(vlan.get().to_be_bytes()) } else { None };
        let tag = tag.map(|[high, low]| [TAGGED[0], TAGGED[1], high, low]);
        let parts =
            [self.addresses.as_slice(), tag.as_ref().map_or(&[], |tag| tag.as_slice()), self.rest];
        let mut length = 0usize;
        for (target, source) in space.iter_mut().zip(parts.into_iter().flatten()) {
            *target = *source;
            length = length.saturating_add(1);
        }
        space.get(..length).unwrap_or_default()
    }
}
