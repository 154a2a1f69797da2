//! Sizes and times as people write them: `"512MiB"`, `"30s"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A number of bytes: `"64KiB"`, `"512MiB"`, `"8GiB"`, `"100B"`; a bare number counts bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

/// A length of time: `"250ms"`, `"30s"`, `"5m"`, `"1h30m"`, `"7d"`; a bare number is refused, because its unit is anybody's guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityFault {
    /// Not a size.
    #[error("{0:?} is not a size; write a whole number with B, KiB, MiB, GiB or TiB, like \"512MiB\"")]
    Size(String),
    /// Not a time.
    #[error("{0:?} is not a length of time; write whole numbers with ms, s, m, h or d, like \"30s\" or \"1h30m\"")]
    Span(String),
}

const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Size {
    /// The bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` gibibytes.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

impl Span {
    /// The time.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// `n` seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// `n` milliseconds.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
}

/// Takes one `number unit` off the front.
fn part<'a>(text: &'a str, units: &[(&'static str, u64)]) -> Option<(u64, usize, &'a str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let rest = text[digits..].trim_start();
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let place = units.iter().position(|(name, _)| *name == &rest[..letters])?;
    Some((number.checked_mul(units[place].1)?, place, &rest[letters..]))
}

impl FromStr for Size {
    type Err = QuantityFault;

    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        let fault = || QuantityFault::Size(text.to_owned());
        let trimmed = text.trim();
        if let Ok(bytes) = trimmed.parse() {
            return Ok(Self(bytes));
        }
        match part(trimmed, &SIZES) {
            Some((bytes, _, "")) => Ok(Self(bytes)),
            _ => Err(fault()),
        }
    }
}

impl FromStr for Span {
    type Err = QuantityFault;

    fn from_str(text: &str) -> Result<Self, QuantityFault> {
        let fault = || QuantityFault::Span(text.to_owned());
        let mut rest = text.trim();
        let mut millis: u64 = 0;
        let mut units: &[(&'static str, u64)] = &SPANS;
        if rest.is_empty() {
            return Err(fault());
        }
        while !rest.is_empty() {
            let (part_millis, place, after) = part(rest, units).ok_or_else(fault)?;
            millis = millis.checked_add(part_millis).ok_or_else(fault)?;
            units = &units[place + 1..];
            rest = after.trim_start();
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = SIZES.into_iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)).unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in SPANS {
            if millis >= unit {
                write!(f, "{}{name}", millis / unit)?;
                millis %= unit;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl Visitor<'_> for Sizes {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size like \"512MiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom(QuantityFault::Size(bytes.to_string())))
            }
        }
        deserializer.deserialize_any(Sizes)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Spans;
        impl Visitor<'_> for Spans {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time with its unit, like \"30s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Spans)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in
            [("0", 0), ("100B", 100), ("64KiB", 65_536), (" 512 MiB ", 512 << 20), ("8GiB", 8 << 30), ("1TiB", 1 << 40)]
        {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string().parse::<Size>(), Ok(Size(bytes)));
        }
        assert_eq!(Size::mib(512).to_string(), "512MiB");
        for text in ["", "12MB", "1.5GiB", "MiB", "-1B", "1KiB2B", "99999999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_read_and_print() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("1h30m", 5_400_000), ("1m 5s 7ms", 65_007), ("7d", 604_800_000), ("0s", 0)]
        {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(text.parse::<Span>(), Ok(span), "{text}");
            assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
        assert_eq!(Span(Duration::from_secs(5_400)).to_string(), "1h30m");
        for text in ["", "30", "s", "1.5s", "5s1h", "5s5s", "99999999999999999d", "5 years"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn faults_name_the_text_and_the_fix() {
        let fault = "12MB".parse::<Size>().unwrap_err().to_string();
        assert!(fault.contains("\"12MB\"") && fault.contains("512MiB"), "{fault}");
        let fault = "30".parse::<Span>().unwrap_err().to_string();
        assert!(fault.contains("\"30\"") && fault.contains("30s"), "{fault}");
    }
}
