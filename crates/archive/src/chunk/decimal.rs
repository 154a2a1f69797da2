//! Payloads that are decimal texts, as numbers: `0.088339` is 88339 at scale 6.
//!
//! Only texts that are rebuilt to the last byte are taken, and only if all of a chunk are: either none ends in a fractional zero, so
//! that the number tells the digits ([`Form::Trimmed`]), or all have the same number of fractional digits ([`Form::Fixed`]).

use std::collections::BTreeSet;
use std::io::Write;

use super::varint::{Reader, put, put_signed};
use crate::error::Damage;

/// Digits that surely fit 64 bits.
const DIGITS_MAX: usize = 18;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Trimmed,
    Fixed,
}

/// All payloads of a chunk as numbers of one scale.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decimals {
    form: Form,
    scale: u32,
    values: Vec<i64>,
}

/// A canonical decimal text as mantissa and number of fractional digits.
fn parse(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &digits[digits.len()..]),
    };
    let has_dot = whole.len() < digits.len();
    let leading_zero = whole.len() > 1 && whole[0] == b'0';
    if whole.is_empty() || leading_zero || has_dot == fraction.is_empty() || whole.len() + fraction.len() > DIGITS_MAX {
        return None;
    }
    let mut mantissa = 0i64;
    for byte in whole.iter().chain(fraction) {
        mantissa = mantissa * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    match (negative, mantissa) {
        (true, 0) => None,
        (true, _) => Some((-mantissa, fraction.len() as u32)),
        (false, _) => Some((mantissa, fraction.len() as u32)),
    }
}

impl Decimals {
    /// The payloads as numbers, if every one of them can be rebuilt.
    pub(crate) fn from_texts<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let parsed = texts.map(parse).collect::<Option<Vec<_>>>()?;
        let scale = parsed.iter().map(|(_, scale)| *scale).max()?;
        let form = if parsed.iter().all(|(mantissa, own)| *own == 0 || mantissa % 10 != 0) {
            Form::Trimmed
        } else if parsed.iter().all(|(_, own)| *own == scale) {
            Form::Fixed
        } else {
            return None;
        };
        let values =
            parsed.iter().map(|(mantissa, own)| mantissa.checked_mul(10i64.checked_pow(scale - own)?)).collect::<Option<_>>()?;
        Some(Self { form, scale, values })
    }

    /// Writes scale and values. Measured quantities are often counts of a unit, so few values come again and again: then the
    /// distinct ones are written once, in order, and the readings as steps between their places.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.form {
            Form::Trimmed => 0,
            Form::Fixed => 1,
        });
        put(out, self.scale.into());
        let distinct: Vec<i64> = self.values.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if distinct.len() * 2 > self.values.len() {
            put(out, 0);
            put_steps(out, self.values.iter().copied());
            return;
        }
        put(out, distinct.len() as u64);
        put_steps(out, distinct.iter().copied());
        put_steps(out, self.values.iter().map(|value| distinct.partition_point(|other| other < value) as i64));
    }

    pub(crate) fn decode(r: &mut Reader<'_>, count: usize) -> Result<Self, Damage> {
        let form = match r.byte()? {
            0 => Form::Trimmed,
            1 => Form::Fixed,
            _ => return Err(Damage::Chunk("an unknown form of decimals")),
        };
        let scale = r.number()?;
        if scale > DIGITS_MAX as u64 {
            return Err(Damage::Chunk("a scale out of range"));
        }
        let distinct = r.number()? as usize;
        let values = match distinct {
            0 => read_steps(r, count)?,
            1.. if distinct <= count => {
                let distinct = read_steps(r, distinct)?;
                let places = read_steps(r, count)?;
                let value = |place: i64| distinct.get(usize::try_from(place).ok()?).copied();
                places
                    .into_iter()
                    .map(value)
                    .collect::<Option<_>>()
                    .ok_or(Damage::Chunk("a place outside the distinct values"))?
            }
            _ => return Err(Damage::Chunk("more distinct values than values")),
        };
        Ok(Self { form, scale: scale as u32, values })
    }

    /// Appends the text of value `index`.
    pub(crate) fn write(&self, index: usize, out: &mut Vec<u8>) {
        let mut value = self.values[index];
        let mut scale = self.scale;
        while self.form == Form::Trimmed && scale > 0 && value % 10 == 0 {
            value /= 10;
            scale -= 1;
        }
        if value < 0 {
            out.push(b'-');
        }
        let value = value.unsigned_abs();
        let unit = 10u64.pow(scale);
        // Writing to a vector can't fail.
        let _ = match scale {
            0 => write!(out, "{value}"),
            _ => write!(out, "{}.{:0width$}", value / unit, value % unit, width = scale as usize),
        };
    }
}

pub(super) fn put_steps(out: &mut Vec<u8>, values: impl Iterator<Item = i64>) {
    let mut previous = 0i64;
    for value in values {
        put_signed(out, value.wrapping_sub(previous));
        previous = value;
    }
}

pub(super) fn read_steps(r: &mut Reader<'_>, count: usize) -> Result<Vec<i64>, Damage> {
    let mut previous = 0i64;
    (0..count)
        .map(|_| {
            previous = previous.wrapping_add(r.signed()?);
            Ok(previous)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(texts: &[&str]) -> Option<Vec<String>> {
        let decimals = Decimals::from_texts(texts.iter().map(|text| text.as_bytes()))?;
        let mut bytes = Vec::new();
        decimals.encode(&mut bytes);
        let mut r = Reader::new(&bytes);
        let read = Decimals::decode(&mut r, texts.len()).unwrap();
        r.end().unwrap();
        assert_eq!(read, decimals);
        let text = |index| {
            let mut out = Vec::new();
            read.write(index, &mut out);
            String::from_utf8(out).unwrap()
        };
        Some((0..texts.len()).map(text).collect())
    }

    #[test]
    fn texts_that_are_taken_come_back_to_the_last_byte() {
        for texts in [
            &["0.088339", "0.43298", "1", "0", "-12.5", "0.21978"][..],
            &["0.50", "1.00", "-0.25"],
            &["230", "231", "-1"],
            &["999999999999999999", "-999999999999999999"],
        ] {
            assert_eq!(round_trip(texts).unwrap(), texts);
        }
    }

    #[test]
    fn texts_with_a_second_spelling_are_left_alone() {
        for text in [
            "",
            "-",
            "-0",
            "-0.0",
            "00",
            "01.5",
            ".5",
            "5.",
            "1e3",
            "+1",
            " 1",
            "0x1",
            "1,5",
            "NaN",
            "1234567890123456789",
            "1.2.3",
        ] {
            assert_eq!(round_trip(&[text]), None, "{text}");
        }
        // One trimmed, one not: neither rule rebuilds both.
        assert_eq!(round_trip(&["0.5", "0.50"]), None);
        assert_eq!(round_trip(&["99999999999999999", "0.001"]), None);
    }
}
