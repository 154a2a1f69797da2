//! A threshold as people write it: bytes, or a part of the budget.

use std::fmt;
use std::str::FromStr;

use chassis::Size;
use serde::de::{self, Deserialize, Deserializer};

/// A number of bytes (`"512MiB"`) or a share of the budget (`"10%"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// So many bytes.
    Bytes(Size),
    /// So many hundredths of the budget, at most 100.
    Percent(u8),
}

/// Why a text is no threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no threshold; write a share of the budget like \"10%\", or a size like \"512MiB\"")]
pub struct ThresholdFault(String);

impl Threshold {
    /// The bytes, for this budget.
    #[must_use]
    pub fn of(self, budget: Size) -> u64 {
        match self {
            Self::Bytes(size) => size.bytes(),
            Self::Percent(percent) => (u128::from(budget.bytes()) * u128::from(percent) / 100) as u64,
        }
    }
}

impl FromStr for Threshold {
    type Err = ThresholdFault;

    fn from_str(text: &str) -> Result<Self, ThresholdFault> {
        let fault = || ThresholdFault(text.to_owned());
        match text.trim().strip_suffix('%') {
            Some(number) => match number.trim_end().parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
                _ => Err(fault()),
            },
            None => text.parse().map(Self::Bytes).map_err(|_| fault()),
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_bytes_or_a_share() {
        let of = |text: &str| text.parse::<Threshold>().map(|threshold| threshold.of(Size(1_000)));
        assert_eq!((of("10%"), of(" 0 %"), of("100%"), of("2KiB")), (Ok(100), Ok(0), Ok(1_000), Ok(2_048)));
        for wrong in ["", "%", "101%", "-1%", "10 percent", "x"] {
            assert!(of(wrong).unwrap_err().to_string().contains("10%"), "{wrong}");
        }
        assert_eq!(Threshold::Percent(100).of(Size(u64::MAX)), u64::MAX);
    }
}
