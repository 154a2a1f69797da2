//! Reading from a packet that is whole: every read is checked against its end.

/// Why a packet ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// MQTT 5 reason code 0x81.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// MQTT 5 reason code 0x82.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// MQTT 5 reason code 0x95.
    #[error("packet too large")]
    TooLarge,
}

impl Fault {
    pub(crate) fn reason_code(self) -> u8 {
        match self {
            Fault::Malformed(_) => 0x81,
            Fault::Protocol(_) => 0x82,
            Fault::TooLarge => 0x95,
        }
    }
}

const SHORT: Fault = Fault::Malformed("packet ends too early");

/// A cursor over the body of one packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }
    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        let (&byte, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        Ok(byte)
    }
    #[inline]
    pub(crate) fn two(&mut self) -> Result<u16, Fault> {
        let (bytes, rest) = self.0.split_first_chunk::<2>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }
    pub(crate) fn four(&mut self) -> Result<u32, Fault> {
        let (bytes, rest) = self.0.split_first_chunk::<4>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }
    #[inline]
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(bytes)
    }
    /// A variable byte integer, in its shortest form only.
    pub(crate) fn variable(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Fault::Malformed("length not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(Fault::Malformed("length of more than four bytes"))
    }
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.two()?;
        self.bytes(usize::from(length))
    }
    /// UTF-8 without U+0000.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Fault::Malformed("text is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(Fault::Malformed("text holds U+0000"));
        }
        Ok(text)
    }
    pub(crate) fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.two()? {
            0 => Err(Fault::Protocol("packet identifier 0")),
            id => Ok(id),
        }
    }
    pub(crate) fn end(self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::Malformed("bytes after the end of the packet")) }
    }
}
