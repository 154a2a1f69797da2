//! Byte strings in JSON: lower-case hex behind `0x`, and nothing else.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire::digest::{from_hex, to_hex};

/// Exactly `N` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HexWord<const N: usize>(pub [u8; N]);

/// Any number of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HexBytes(pub Vec<u8>);

const EXPECTED: &str = "expected lower-case hex behind 0x";

fn digits(text: &str) -> Option<&str> {
    text.strip_prefix("0x")
}

impl<const N: usize> Serialize for HexWord<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("0x{}", to_hex(&self.0)))
    }
}

impl<'de, const N: usize> Deserialize<'de> for HexWord<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let word = digits(&text).and_then(|digits| from_hex(digits).ok());
        word.map(Self).ok_or_else(|| D::Error::custom(format_args!("{EXPECTED}, {N} bytes")))
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("0x{}", to_hex(&self.0)))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = digits(&text).and_then(|digits| {
            let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
            let byte = |pair: &[u8; 2]| std::str::from_utf8(pair).ok().and_then(|pair| from_hex::<1>(pair).ok());
            pairs.iter().map(|pair| byte(pair).map(|[byte]| byte)).collect()
        });
        bytes.map(Self).ok_or_else(|| D::Error::custom(EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_spelling() {
        assert_eq!(serde_json::to_string(&HexWord([0, 0xab])).unwrap(), r#""0x00ab""#);
        assert_eq!(serde_json::from_str::<HexWord<2>>(r#""0x00ab""#).unwrap(), HexWord([0, 0xab]));
        assert_eq!(serde_json::from_str::<HexBytes>(r#""0x""#).unwrap(), HexBytes(vec![]));
        assert_eq!(serde_json::from_str::<HexBytes>(r#""0x00ff""#).unwrap(), HexBytes(vec![0, 255]));
        for text in [r#""00ab""#, r#""0x00AB""#, r#""0X00ab""#, r#""0x0""#, r#""0x00a""#, r#""0x00ag""#, r#""0x0é""#, "1", "null"]
        {
            assert!(serde_json::from_str::<HexWord<2>>(text).is_err(), "{text}");
        }
        for text in [r#""""#, r#""0x0""#, r#""0x0A""#, r#""0x+1""#, r#""0xé""#] {
            assert!(serde_json::from_str::<HexBytes>(text).is_err(), "{text}");
        }
    }
}
