//! What a member collected in a term, as one number (A9): a histogram, a curve through it, and the area under the curve.
//!
//! The curve is a monotone piecewise cubic (F. N. Fritsch and R. E. Carlson, SIAM J. Numer. Anal. 17, 1980) through the midpoints of the
//! bars' tops, level from the first midpoint back to the start and from the last on to the end. Why this one: counts come in
//! bursts, and a polynomial or an ordinary cubic spline swings around a burst, below zero beside it, so that a quiet member could get a
//! smaller area for a loud minute. This curve never leaves the range of two neighbouring counts, so it is nowhere negative, a single
//! burst counts for exactly its bar, and constants and ramps keep their exact area. The integral is closed: no step size to choose.

use std::time::Duration;

/// Bars of one member in one term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Width of a bar.
    pub period: Duration,
    /// Number of the first period since 1970.
    pub first: u64,
    /// Bytes collected in each period.
    pub bars: Vec<u64>,
}

impl Histogram {
    /// The member's score: the area under the curve, in bytes, because a bar is one period wide.
    #[must_use]
    pub fn score(&self) -> f64 {
        let tops: Vec<f64> = self.bars.iter().map(|bytes| *bytes as f64).collect();
        Curve::fit(&tops).area()
    }
}

/// A monotone piecewise cubic over bars of width 1; the first bar reaches from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    tops: Vec<f64>,
    slopes: Vec<f64>,
}

impl Curve {
    /// Fits the curve to the tops of the bars, which are not negative.
    #[must_use]
    pub fn fit(tops: &[f64]) -> Self {
        let steps: Vec<f64> = tops.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut slopes = slopes(&steps, tops.len());
        for (index, step) in steps.iter().enumerate() {
            let (left, right) = limited(slopes[index], slopes[index + 1], *step);
            slopes[index] = left;
            slopes[index + 1] = right;
        }
        Self { tops: tops.to_vec(), slopes }
    }

    /// The area under the curve, from the start of the first bar to the end of the last. Never negative.
    #[must_use]
    pub fn area(&self) -> f64 {
        let (Some(first), Some(last)) = (self.tops.first(), self.tops.last()) else { return 0.0 };
        // The integral of a cubic in Hermite form over a piece of length 1.
        let piece = |(tops, slopes): (&[f64], &[f64])| (tops[0] + tops[1]) / 2.0 + (slopes[0] - slopes[1]) / 12.0;
        let pieces: f64 = self.tops.windows(2).zip(self.slopes.windows(2)).map(piece).sum();
        (first / 2.0 + pieces + last / 2.0).max(0.0)
    }

    /// The curve at `x`, in bars from the start of the first one; level beyond the outermost midpoints.
    #[must_use]
    pub fn value(&self, x: f64) -> f64 {
        let (Some(first), Some(last)) = (self.tops.first(), self.tops.last()) else { return 0.0 };
        let along = x - 0.5;
        if along <= 0.0 {
            return *first;
        }
        let index = along.floor();
        let piece = index as usize;
        let (Some(right), Some(slope)) = (self.tops.get(piece + 1), self.slopes.get(piece + 1)) else { return *last };
        let (t, left) = (along - index, self.tops[piece]);
        let (t2, t3) = (t * t, t * t * t);
        left * (2.0 * t3 - 3.0 * t2 + 1.0)
            + self.slopes[piece] * (t3 - 2.0 * t2 + t)
            + right * (3.0 * t2 - 2.0 * t3)
            + slope * (t3 - t2)
    }
}

/// Slopes at the midpoints before they are limited: the mean of both sides' steps, at the ends those of the parabola through three points.
fn slopes(steps: &[f64], points: usize) -> Vec<f64> {
    match steps {
        [] => vec![0.0; points],
        [only] => vec![*only; 2],
        [first, second, ..] => {
            let end = |near: f64, far: f64| (3.0 * near - far) / 2.0;
            let (last, before) = (steps[steps.len() - 1], steps[steps.len() - 2]);
            let inner = steps.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
            std::iter::once(end(*first, *second)).chain(inner).chain(std::iter::once(end(last, before))).collect()
        }
    }
}

/// Slopes of a piece that keep it monotone: with the sign of its step, and inside the circle of radius 3.
fn limited(left: f64, right: f64, step: f64) -> (f64, f64) {
    if step == 0.0 {
        return (0.0, 0.0);
    }
    let (a, b) = ((left / step).max(0.0), (right / step).max(0.0));
    let length = a.hypot(b);
    let shrink = if length > 3.0 { 3.0 / length } else { 1.0 };
    (a * shrink * step, b * shrink * step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(tops: &[f64]) -> f64 {
        Curve::fit(tops).area()
    }

    /// The integral of the curve's values, by the midpoint rule.
    fn summed(curve: &Curve, bars: usize) -> f64 {
        const STEPS: usize = 2_000;
        (0..bars * STEPS).map(|step| curve.value((step as f64 + 0.5) / STEPS as f64) / STEPS as f64).sum()
    }

    fn close(one: f64, other: f64) {
        assert!((one - other).abs() <= 1e-9 * other.abs().max(1.0), "{one} is not {other}");
    }

    #[test]
    fn a9_a_constant_a_ramp_and_one_bar_have_their_exact_area() {
        close(area(&[]), 0.0);
        close(area(&[7.0]), 7.0);
        close(area(&[5.0; 60]), 300.0);
        // y = 3x over 0 to n: 3n²/2.
        let ramp: Vec<f64> = (0..50).map(|bar| 3.0 * (f64::from(bar) + 0.5)).collect();
        close(area(&ramp), 3.0 * 50.0 * 50.0 / 2.0);
        let falling: Vec<f64> = ramp.into_iter().rev().collect();
        close(area(&falling), 3.0 * 50.0 * 50.0 / 2.0);
        close(area(&[2.0, 6.0]), 8.0);
    }

    #[test]
    fn a9_a_parabola_keeps_its_area_between_the_outermost_midpoints() {
        let n = 40.0_f64;
        let tops: Vec<f64> = (0..40).map(|bar| (f64::from(bar) + 0.5).powi(2)).collect();
        // Between the midpoints the integral of x², outside them half a bar at each level.
        let inner = ((n - 0.5).powi(3) - 0.125) / 3.0;
        close(area(&tops), inner + 0.25 / 2.0 + (n - 0.5).powi(2) / 2.0);
        for x in [0.75, 3.1, 20.5, 39.2] {
            close(Curve::fit(&tops).value(x), x * x);
        }
    }

    #[test]
    fn a9_a_burst_counts_for_its_bar_and_nothing_swings_below_zero() {
        let mut burst = [0.0; 30];
        burst[12] = 1e6;
        close(area(&burst), 1e6);
        let steps = [0.0, 0.0, 9.0, 9.0, 1e5, 3.0, 0.0, 0.0, 2e5, 0.0];
        for tops in [&burst[..], &steps[..]] {
            let curve = Curve::fit(tops);
            for point in 0..tops.len() * 100 {
                let x = point as f64 / 100.0;
                let (value, at) = (curve.value(x), (x - 0.5).max(0.0).floor() as usize);
                let (one, other) = (tops[at], tops[(at + 1).min(tops.len() - 1)]);
                let margin = 1e-6 * one.max(other);
                assert!(one.min(other) - margin <= value && value <= one.max(other) + margin, "{value} at {x} of {tops:?}");
            }
        }
    }

    #[test]
    fn a9_the_closed_form_is_the_integral_of_the_curve() {
        let mut random = testkit::Seed::new().rng();
        for bars in 1..12 {
            let tops: Vec<f64> = (0..bars).map(|_| f64::from(rand::Rng::next_u32(&mut random) % 1_000)).collect();
            let curve = Curve::fit(&tops);
            assert!((curve.area() - summed(&curve, bars)).abs() < 0.01, "{tops:?}");
        }
    }

    #[test]
    fn a9_huge_counts_give_a_finite_score() {
        let histogram = |bars: Vec<u64>| Histogram { period: Duration::from_secs(60), first: 1, bars };
        let score = histogram(vec![u64::MAX, 0, u64::MAX, u64::MAX, 1]).score();
        assert!(score.is_finite() && score > u64::MAX as f64, "{score}");
        assert!(histogram(vec![u64::MAX; 4_096]).score().is_finite());
        close(histogram(vec![]).score(), 0.0);
    }
}
