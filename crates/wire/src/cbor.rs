//! Strict reading of canonical CBOR (RFC 8949 section 4.2.1), over `minicbor`.
//!
//! `minicbor` takes any well-formed encoding. Two encodings of one value would give one record two digests, so this reader refuses
//! everything but the shortest integers and definite lengths, and the caller ends with [`Strict::end`] to refuse what trails.

use minicbor::Decoder;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not well-formed CBOR, or not the type that belongs here.
    #[error("byte {at}: expected {expected}")]
    Expected {
        /// What belongs at this place.
        expected: &'static str,
        /// Offset of the item in the input.
        at: usize,
    },
    /// A longer encoding than necessary.
    #[error("byte {at}: not the shortest encoding")]
    NotCanonical {
        /// Offset of the item in the input.
        at: usize,
    },
    /// Bytes follow the end of the value.
    #[error("byte {at}: {bytes} bytes after the end")]
    Trailing {
        /// Where the value ended.
        at: usize,
        /// How many bytes follow.
        bytes: usize,
    },
    /// A value is well formed, but breaks a rule of the format.
    #[error("{field}: {rule}")]
    Rule {
        /// The field of the format.
        field: &'static str,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

/// How many bytes the shortest head of an item with this argument takes.
pub const fn head_bytes(argument: u64) -> usize {
    match argument {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}

/// Writes the head of an item: `major` is the CBOR major type 0 to 7.
pub fn put_head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match head_bytes(argument) {
        1 => out.push(major | argument as u8),
        2 => out.extend_from_slice(&[major | 24, argument as u8]),
        3 => {
            out.push(major | 25);
            out.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        5 => {
            out.push(major | 26);
            out.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

/// Writes an unsigned integer.
pub fn put_uint(out: &mut Vec<u8>, value: u64) {
    put_head(out, 0, value);
}

/// Writes a signed integer.
pub fn put_int(out: &mut Vec<u8>, value: i64) {
    if value < 0 { put_head(out, 1, !value as u64) } else { put_head(out, 0, value as u64) }
}

/// Writes a byte string.
pub fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_head(out, 2, value.len() as u64);
    out.extend_from_slice(value);
}

/// Writes a text string.
pub fn put_text(out: &mut Vec<u8>, value: &str) {
    put_head(out, 3, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

/// Writes the head of an array of `items`.
pub fn put_array(out: &mut Vec<u8>, items: u64) {
    put_head(out, 4, items);
}

/// Writes a boolean.
pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0xf5 } else { 0xf4 });
}

/// A reader that accepts canonical CBOR only.
#[derive(Debug, Clone)]
pub struct Strict<'b> {
    decoder: Decoder<'b>,
}

impl<'b> Strict<'b> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { decoder: Decoder::new(bytes) }
    }

    /// How many bytes were read so far.
    pub fn position(&self) -> usize {
        self.decoder.position()
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'b [u8] {
        &self.decoder.input()[self.decoder.position()..]
    }

    /// Reads one item with `read`, whose head must take `head_bytes(argument)` bytes and whose body `body` bytes.
    #[inline]
    fn item<T>(
        &mut self,
        expected: &'static str,
        read: impl FnOnce(&mut Decoder<'b>) -> Result<T, minicbor::decode::Error>,
        shape: impl FnOnce(&T) -> (u64, usize),
    ) -> Result<T, Fault> {
        let at = self.decoder.position();
        let value = read(&mut self.decoder).map_err(|_| Fault::Expected { expected, at })?;
        let (argument, body) = shape(&value);
        if self.decoder.position() - at != head_bytes(argument) + body {
            return Err(Fault::NotCanonical { at });
        }
        Ok(value)
    }

    /// An unsigned integer.
    #[inline]
    pub fn uint(&mut self) -> Result<u64, Fault> {
        self.item("an unsigned integer", Decoder::u64, |v| (*v, 0))
    }

    /// A signed integer.
    #[inline]
    pub fn int(&mut self) -> Result<i64, Fault> {
        self.item("an integer", Decoder::i64, |v| (if *v < 0 { !*v as u64 } else { *v as u64 }, 0))
    }

    /// A byte string of definite length.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'b [u8], Fault> {
        self.item("a byte string", Decoder::bytes, |v| (v.len() as u64, v.len()))
    }

    /// A byte string of exactly `N` bytes.
    pub fn array_of_bytes<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Fault> {
        self.bytes()?.try_into().map_err(|_| Fault::Rule { field, rule: "has the wrong length" })
    }

    /// A text string of definite length.
    #[inline]
    pub fn text(&mut self) -> Result<&'b str, Fault> {
        self.item("a text string", Decoder::str, |v| (v.len() as u64, v.len()))
    }

    /// The head of an array of definite length; gives the number of its items.
    #[inline]
    pub fn array(&mut self) -> Result<u64, Fault> {
        let at = self.decoder.position();
        let items = self.item("an array", Decoder::array, |v| (v.unwrap_or(0), 0))?;
        items.ok_or(Fault::NotCanonical { at })
    }

    /// The head of an array that must have `items` items.
    pub fn array_of(&mut self, items: u64, field: &'static str) -> Result<(), Fault> {
        if self.array()? != items {
            return Err(Fault::Rule { field, rule: "has the wrong number of items" });
        }
        Ok(())
    }

    /// A boolean.
    pub fn bool(&mut self) -> Result<bool, Fault> {
        self.item("a boolean", Decoder::bool, |_| (0, 0))
    }

    /// Refuses whatever follows the value.
    ///
    /// # Errors
    /// [`Fault::Trailing`].
    pub fn end(&self) -> Result<(), Fault> {
        match self.rest().len() {
            0 => Ok(()),
            bytes => Err(Fault::Trailing { at: self.position(), bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_encodings_of_the_same_value_are_refused() {
        for (bytes, canonical) in [(&[0x17][..], true), (&[0x18, 0x17], false), (&[0x18, 0x18], true), (&[0x19, 0, 0xff], false)]
        {
            assert_eq!(Strict::new(bytes).uint().is_ok(), canonical, "{bytes:02x?}");
        }
        assert_eq!(Strict::new(&[0x38, 0x17]).int(), Err(Fault::NotCanonical { at: 0 }));
        assert_eq!(Strict::new(&[0x9f, 0xff]).array(), Err(Fault::NotCanonical { at: 0 }));
        assert!(Strict::new(&[0x5f, 0x41, 0x00, 0xff]).bytes().is_err());
        assert!(Strict::new(&[0x58, 0x01, 0x00]).bytes().is_err());
        assert!(Strict::new(&[0x78, 0x01, b'a']).text().is_err());
        assert_eq!(Strict::new(&[0x00, 0x00]).end(), Err(Fault::Trailing { at: 0, bytes: 2 }));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [0, 23, 24, 255, 256, 65_535, 65_536, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            let mut out = Vec::new();
            put_uint(&mut out, value);
            assert_eq!(Strict::new(&out).uint(), Ok(value));
        }
        for value in [0, -1, -24, -25, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            put_int(&mut out, value);
            assert_eq!(Strict::new(&out).int(), Ok(value));
        }
    }
}
