//! A property and the standard ways to read its value (Devicetree Specification 0.4, 2.2.4).

use super::blob::{self, Token, Tokens};
use super::{Node, PropertyError};
use alloc::borrow::ToOwned;
use alloc::string::ToString;

/// A property of a node.
#[derive(Clone, Copy)]
pub struct Property<'t> {
    node: Node<'t>,
    name: &'t str,
    value: &'t [u8],
}

impl<'t> Property<'t> {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &'t str {
        self.name
    }

    /// The raw value.
    #[must_use]
    pub fn value(&self) -> &'t [u8] {
        self.value
    }

    /// The value as one 32-bit number.
    ///
    /// # Errors
    /// If the value hasn't 4 bytes.
    pub fn u32(&self) -> Result<u32, PropertyError> {
        match (self.value.len(), blob::word(self.value, 0)) {
            (4, Some(number)) => Ok(number),
            _ => Err(self.fault("the value isn't one number of 4 bytes")),
        }
    }

    /// The value as one number of 32 or 64 bits.
    ///
    /// # Errors
    /// If the value has neither 4 nor 8 bytes.
    pub fn u64(&self) -> Result<u64, PropertyError> {
        match (self.value.len(), blob::double_word(self.value, 0)) {
            (8, Some(number)) => Ok(number),
            (4, _) => self.u32().map(u64::from),
            _ => Err(self.fault("the value isn't one number of 4 or 8 bytes")),
        }
    }

    /// The value as a string, up to its first NUL.
    ///
    /// # Errors
    /// If there is no NUL or the text isn't UTF-8.
    pub fn str(&self) -> Result<&'t str, PropertyError> {
        blob::string(self.value, 0)
            .and_then(|text| core::str::from_utf8(text).ok())
            .ok_or_else(|| self.fault("the value isn't a text that ends with NUL"))
    }

    /// The value as a list of strings. What isn't UTF-8 or has no NUL ends the list.
    #[must_use]
    pub fn strings(&self) -> Strings<'t> {
        Strings { rest: self.value }
    }

    /// The value as a list of 32-bit numbers. Bytes that don't fill the last one are left out.
    pub fn cells(&self) -> impl Iterator<Item = u32> + Clone + 't {
        let value = self.value;
        value.chunks_exact(4).filter_map(|cell| blob::word(cell, 0))
    }

    /// An error about this property.
    #[must_use]
    pub fn fault(&self, fault: &'static str) -> PropertyError {
        PropertyError { node: self.node.path().to_string(), property: self.name.to_owned(), fault }
    }
}

impl core::fmt::Debug for Property<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} = {:02x?}", self.name, self.value)
    }
}

/// Iterator over a list of strings.
#[derive(Clone, Debug, Default)]
pub struct Strings<'t> {
    rest: &'t [u8],
}

impl<'t> Iterator for Strings<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let text = blob::string(self.rest, 0)?;
        self.rest = self.rest.get(text.len().saturating_add(1)..)?;
        core::str::from_utf8(text).ok()
    }
}

/// Iterator over the properties of a node.
#[derive(Clone)]
pub struct Properties<'t> {
    node: Node<'t>,
    tokens: Tokens<'t>,
    strings: &'t [u8],
}

impl<'t> Properties<'t> {
    pub(super) fn new(node: Node<'t>, blob: &'t [u8], first: usize, strings: usize) -> Self {
        Self {
            node,
            tokens: Tokens::new(blob, first),
            strings: blob.get(strings..).unwrap_or_default(),
        }
    }

    /// The first one of that name. Looks at no more of the others' names than differs.
    pub(super) fn named(mut self, name: &str) -> Option<Property<'t>> {
        while let Ok(Token::Property { name: offset, value }) = self.tokens.next() {
            let name = name.as_bytes();
            let Some((text, rest)) =
                self.strings.get(offset as usize..)?.split_at_checked(name.len())
            else {
                continue;
            };
            if text == name && rest.first() == Some(&0) {
                return Some(Property { node: self.node, name: str::from_utf8(text).ok()?, value });
            }
        }
        None
    }
}

impl<'t> Iterator for Properties<'t> {
    type Item = Property<'t>;

    fn next(&mut self) -> Option<Property<'t>> {
        // Properties come before children, so any other token is the end.
        let Ok(Token::Property { name, value }) = self.tokens.next() else { return None };
        let name = core::str::from_utf8(blob::string(self.strings, name as usize)?).ok()?;
        Some(Property { node: self.node, name, value })
    }
}
