//! Taking numbers and vectors off the front of bytes, as TLS writes them (RFC 8446 section 3.4).
//! What is not there is [`Short`]; nothing panics.

/// There are fewer bytes than a length says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short;

/// What is left of some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn number8(&mut self) -> Result<u8, Short> {
        let (&number, rest) = self.0.split_first().ok_or(Short)?;
        self.0 = rest;
        Ok(number)
    }

    pub(super) fn number16(&mut self) -> Result<u16, Short> {
        let (&number, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(number))
    }

    /// A vector with one byte of length.
    pub(super) fn vector8(&mut self) -> Result<Self, Short> {
        let length = self.number8()?;
        self.take(usize::from(length)).map(Self)
    }

    /// A vector with two bytes of length.
    pub(super) fn vector16(&mut self) -> Result<Self, Short> {
        let length = self.number16()?;
        self.take(usize::from(length)).map(Self)
    }
}
