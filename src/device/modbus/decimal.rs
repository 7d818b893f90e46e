//! Exact decimal numbers: a register that holds 3 with a scale of 0.1 is 0.3, and not 0.30000000000000004.
//!
//! Pure. Every operation says `None` instead of losing a digit.

use std::fmt;

/// `digits` × 10^`exponent`
#[derive(Debug, Clone, Copy)]
pub struct Decimal {
    digits: i128,
    exponent: i32,
}

impl Decimal {
    /// A whole number.
    pub fn whole(digits: i128) -> Self {
        Decimal { digits, exponent: 0 }
    }

    /// What the shortest text of a finite float says.
    pub fn of(float: f64) -> Option<Self> {
        Decimal::parse(&float.to_string())
    }

    /// Reads `-12.50` or `1.5e-7`.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let is_right = |digits: &str| digits.chars().all(|c| c.is_ascii_digit());
        if !is_right(whole.strip_prefix('-').unwrap_or(whole)) || !is_right(fraction) {
            return None;
        }
        let digits = format!("{whole}{fraction}").parse().ok()?;
        let exponent = exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
        Some(Decimal { digits, exponent })
    }

    /// The product.
    pub fn times(self, other: Decimal) -> Option<Self> {
        let digits = self.digits.checked_mul(other.digits)?;
        Some(Decimal { digits, exponent: self.exponent.checked_add(other.exponent)? })
    }

    /// The sum.
    pub fn plus(self, other: Decimal) -> Option<Self> {
        if other.digits == 0 {
            return Some(self);
        }
        let exponent = self.exponent.min(other.exponent);
        let digits = self.raised(exponent)?.checked_add(other.raised(exponent)?)?;
        Some(Decimal { digits, exponent })
    }

    /// The difference.
    pub fn minus(self, other: Decimal) -> Option<Self> {
        self.plus(Decimal { digits: other.digits.checked_neg()?, ..other })
    }

    /// The whole number next to the quotient; of two that are equally near, the one further from 0.
    pub fn quotient(self, by: Decimal) -> Option<i128> {
        let exponent = self.exponent.min(by.exponent);
        let (dividend, divisor) = (self.raised(exponent)?, by.raised(exponent)?);
        let (whole, rest) = (dividend.checked_div(divisor)?, dividend.checked_rem(divisor)?);
        let away = if (dividend < 0) == (divisor < 0) { 1 } else { -1 };
        let is_half = rest.checked_abs()?.checked_mul(2)? >= divisor.checked_abs()?;
        if is_half { whole.checked_add(away) } else { Some(whole) }
    }

    /// The float next to it.
    pub fn float(self) -> f64 {
        format!("{}e{}", self.digits, self.exponent).parse().unwrap_or(f64::NAN)
    }

    /// The digits for a lower exponent.
    fn raised(self, exponent: i32) -> Option<i128> {
        let zeros = u32::try_from(self.exponent.checked_sub(exponent)?).ok()?;
        match self.digits {
            0 => Some(0),
            digits => digits.checked_mul(10_i128.checked_pow(zeros)?),
        }
    }
}

/// As JSON has it, without an exponent and without zeros that say nothing.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut digits, mut exponent) = (self.digits, self.exponent);
        while exponent < 0 && digits % 10 == 0 {
            (digits, exponent) = (digits / 10, exponent + 1);
        }
        let places = usize::try_from(-exponent).unwrap_or(0);
        let sign = if digits < 0 { "-" } else { "" };
        let text = format!("{:0>width$}", digits.unsigned_abs(), width = places + 1);
        let (whole, fraction) = text.split_at(text.len() - places);
        let zeros = if digits == 0 { 0 } else { usize::try_from(exponent).unwrap_or(0) };
        write!(f, "{sign}{whole}{:0<zeros$}", "")?;
        if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn no_digit_is_ever_lost_or_made_up() {
        for (text, shown) in [
            ("0", "0"),
            ("-12.50", "-12.5"),
            ("0.05", "0.05"),
            ("-0.5", "-0.5"),
            ("1.5e-3", "0.0015"),
            ("12e2", "1200"),
            ("0.0", "0"),
            ("100", "100"),
            ("-0", "0"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
        }
        for wrong in ["", "-", "NaN", "inf", "1.2.3", "+1", "1e", "0x1", &"9".repeat(40)] {
            assert!(Decimal::parse(wrong).is_none(), "{wrong}");
        }
        assert_eq!(decimal("3").times(decimal("0.1")).unwrap().to_string(), "0.3");
        assert_eq!(decimal("0.1").plus(decimal("-40")).unwrap().to_string(), "-39.9");
        assert_eq!(decimal("0.1").minus(decimal("0.3")).unwrap().to_string(), "-0.2");
    }

    #[test]
    fn a_quotient_is_never_rounded_the_wrong_way() {
        for (number, by, whole) in [
            ("0.3", "0.1", 3),
            ("21.54", "0.1", 215),
            ("21.55", "0.1", 216),
            ("-21.55", "0.1", -216),
            ("1", "-2", -1),
            ("0.4", "1", 0),
            ("7", "1e3", 0),
            ("500", "1e3", 1),
        ] {
            assert_eq!(decimal(number).quotient(decimal(by)), Some(whole), "{number} / {by}");
        }
        assert_eq!(decimal("1").quotient(decimal("0")), None);
        assert_eq!(decimal("1e38").quotient(decimal("1e-9")), None);
    }

    proptest! {
        #[test]
        fn a_scaled_number_never_comes_back_as_another(raw in any::<u64>(), scale in -99_999..99_999_i32, places in -5..9_i32, offset in any::<i32>()) {
            prop_assume!(scale != 0);
            let (scale, offset) = (decimal(&format!("{scale}e{places}")), decimal(&format!("{offset}e-3")));
            let scaled = Decimal::whole(raw.into()).times(scale).and_then(|value| value.plus(offset));
            if let Some(scaled) = scaled {
                let shown = decimal(&scaled.to_string());
                prop_assert_eq!(shown.minus(offset).and_then(|value| value.quotient(scale)), Some(i128::from(raw)));
            }
        }

        #[test]
        fn no_float_ever_changes(float in any::<f64>()) {
            if let Some(decimal) = Decimal::of(float) {
                prop_assert_eq!(decimal.to_string().parse::<f64>().unwrap(), float);
                prop_assert_eq!(decimal.float(), float);
            }
        }

        #[test]
        fn no_text_ever_panics(text in ".*", digits in "-?[0-9]{0,40}\\.?[0-9]{0,9}e?-?[0-9]{0,12}") {
            for text in [text, digits] {
                if let Some(decimal) = Decimal::parse(&text).filter(|decimal| decimal.exponent.abs() < 1000) {
                    let _ = (decimal.to_string(), decimal.quotient(decimal), decimal.times(decimal), decimal.plus(Decimal::whole(1)));
                }
            }
        }
    }
}
