//! Writes device-tree blobs for tests, odd ones included.

use super::blob::{BEGIN_NODE, END, END_NODE, PROPERTY};

const NOP: u32 = 4;

/// A structure block and a strings block under construction.
#[derive(Clone, Default)]
pub(crate) struct TestBlob {
    pub(crate) structure: Vec<u8>,
    pub(crate) strings: Vec<u8>,
    pub(crate) reservations: Vec<(u64, u64)>,
}

impl TestBlob {
    /// A tree whose root has the usual cells; the caller must end it.
    pub(crate) fn root(address_cells: u32, size_cells: u32) -> Self {
        Self::default()
            .begin("")
            .cells("#address-cells", &[address_cells])
            .cells("#size-cells", &[size_cells])
    }

    pub(crate) fn word(mut self, word: u32) -> Self {
        self.structure.extend(word.to_be_bytes());
        self
    }

    fn pad(mut self) -> Self {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn begin(self, name: &str) -> Self {
        let mut blob = self.word(BEGIN_NODE);
        blob.structure.extend(name.bytes().chain([0]));
        blob.pad()
    }

    pub(crate) fn end(self) -> Self {
        self.word(END_NODE)
    }

    pub(crate) fn nop(self) -> Self {
        self.word(NOP)
    }

    pub(crate) fn property(mut self, name: &str, value: &[u8]) -> Self {
        let name: Vec<u8> = name.bytes().chain([0]).collect();
        let offset =
            self.strings.windows(name.len()).position(|window| window == name).unwrap_or_else(
                || {
                    self.strings.extend(&name);
                    self.strings.len() - name.len()
                },
            );
        let mut blob = self.word(PROPERTY).word(value.len() as u32).word(offset as u32);
        blob.structure.extend(value);
        blob.pad()
    }

    pub(crate) fn cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &value)
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.property(name, &[])
    }

    /// A list of strings, written with `|` between them.
    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        let value: Vec<u8> = text.split('|').flat_map(|text| text.bytes().chain([0])).collect();
        self.property(name, &value)
    }

    pub(crate) fn leaf(self, name: &str, fill: impl FnOnce(Self) -> Self) -> Self {
        fill(self.begin(name)).end()
    }

    /// The blob, after the end mark.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.word(END).assemble()
    }

    /// The blob as it is, complete or not.
    pub(crate) fn assemble(&self) -> Vec<u8> {
        let mut reservations: Vec<u8> = self
            .reservations
            .iter()
            .flat_map(|&(base, size)| [base, size])
            .flat_map(u64::to_be_bytes)
            .collect();
        reservations.extend([0; 16]);
        let header =
            super::blob::header(reservations.len(), self.structure.len(), self.strings.len())
                .unwrap();
        [&header[..], &reservations, &self.structure, &self.strings].concat()
    }
}
