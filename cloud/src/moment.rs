//! Generation times as text: RFC 3339 in UTC with nanoseconds, read and written.

use wire::At;

const NANOS: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// Why a time was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither RFC 3339 (2016-01-31T12:00:00Z) nor nanoseconds since 1970")]
pub struct MomentFault;

/// Reads RFC 3339 with any offset, or whole nanoseconds since 1970.
///
/// # Errors
/// [`MomentFault`] for anything else, and for times that 64-bit nanoseconds since 1970 can't hold.
pub fn parse(text: &str) -> Result<At, MomentFault> {
    if let Ok(nanos) = text.parse::<At>() {
        return if nanos >= 0 { Ok(nanos) } else { Err(MomentFault) };
    }
    let moment: jiff::Timestamp = text.parse().map_err(|_| MomentFault)?;
    let nanos = At::try_from(moment.as_nanosecond()).map_err(|_| MomentFault)?;
    if nanos >= 0 { Ok(nanos) } else { Err(MomentFault) }
}

/// Formats a time on its own; [`Stamper`] is for many.
pub fn format(at: At) -> String {
    Stamper::default().stamp(at).to_owned()
}

/// Writes times one after the other into one buffer. Only what differs from the last one is written anew: readings of a run
/// mostly share the second, and nearly always the day.
#[derive(Debug)]
pub struct Stamper {
    text: [u8; 30],
    day: i64,
    second: i64,
}

impl Default for Stamper {
    fn default() -> Self {
        Self { text: *b"1970-01-01T00:00:00.000000000Z", day: 0, second: 0 }
    }
}

impl Stamper {
    /// The time as `2016-01-01T00:15:00.000000000Z`. A time before 1970, which no record has, shows as 1970.
    #[inline]
    pub fn stamp(&mut self, at: At) -> &str {
        let at = at.max(0);
        let second = at / NANOS;
        if second != self.second {
            self.second = second;
            self.write_second();
        }
        digits(&mut self.text[20..29], at % NANOS);
        std::str::from_utf8(&self.text).expect("the buffer holds ASCII only")
    }

    fn write_second(&mut self) {
        let day = self.second / DAY_SECONDS;
        if day != self.day {
            self.day = day;
            let (year, month, day) = civil(day);
            digits(&mut self.text[0..4], year);
            digits(&mut self.text[5..7], month);
            digits(&mut self.text[8..10], day);
        }
        let second = self.second % DAY_SECONDS;
        digits(&mut self.text[11..13], second / 3600);
        digits(&mut self.text[14..16], second / 60 % 60);
        digits(&mut self.text[17..19], second % 60);
    }
}

#[inline]
fn digits(place: &mut [u8], mut number: i64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Year, month and day of a day count since 1970-01-01 in the proleptic Gregorian calendar (Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_a_calendar_library() {
        let mut stamper = Stamper::default();
        // A stride of about 37 days and some nanoseconds crosses leap years, centuries and month ends up to the year 2262.
        for step in 0..2_880_i64 {
            let at = step * 3_200_000_123_456_789;
            let expected = format!("{:.9}", jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap());
            assert_eq!(stamper.stamp(at), expected);
        }
        for at in [0, 1, NANOS - 1, NANOS, i64::MAX, 951_782_400 * NANOS, 951_868_799 * NANOS] {
            assert_eq!(stamper.stamp(at), format!("{:.9}", jiff::Timestamp::from_nanosecond(i128::from(at)).unwrap()));
            assert_eq!(parse(stamper.stamp(at)), Ok(at));
        }
    }

    #[test]
    fn times_are_read_in_both_spellings() {
        assert_eq!(parse("2016-01-01T01:00:00+01:00"), Ok(1_451_606_400 * NANOS));
        assert_eq!(parse("1451606400000000001"), Ok(1_451_606_400 * NANOS + 1));
        for text in ["", "yesterday", "-1", "1969-12-31T23:59:59Z", "2016-01-01", "9999-01-01T00:00:00Z", "1e9"] {
            assert_eq!(parse(text), Err(MomentFault), "{text}");
        }
    }
}
