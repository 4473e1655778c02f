//! Kubernetes' quantities: `500m`, `1.5Gi`, `2e3`.
//! Grammar: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use std::fmt;

/// An amount of a resource, exact to a thousand-millionth, as its user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    nanos: i128,
}

const NANO: i128 = 1_000_000_000;
/// The longest text: longer ones have more digits than any amount needs.
const LONGEST: usize = 40;
/// The largest whole amount: 1Pi. Eight thousand of them fit into the 64 bits in which amounts are added.
const MAX_WHOLE: i128 = 1 << 50;

impl Quantity {
    /// The quantity that `text` is. Never negative: no resource can be.
    ///
    /// # Errors
    /// What is wrong with it, for its user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || "must be a quantity such as 2, 500m, 1.5, 128Mi or 1e3".to_owned();
        if text.len() > LONGEST {
            return Err(bad());
        }
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        if unsigned.starts_with('-') {
            return Err("must not be negative".into());
        }
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
            return Err(bad());
        }
        // The number without its point, and how many of its digits stood behind it.
        let digits: i128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        let behind = u32::try_from(fraction.len()).map_err(|_| bad())?;
        let (numerator, denominator) = factor(suffix).ok_or_else(bad)?;
        let scale = 10_i128.checked_pow(behind).ok_or_else(bad)?.checked_mul(denominator).ok_or_else(bad)?;
        let large = || "must be at most 1Pi".to_owned();
        let scaled = digits.checked_mul(numerator).and_then(|n| n.checked_mul(NANO)).ok_or_else(large)?;
        let nanos = scaled / scale + i128::from(scaled % scale != 0);
        if nanos > MAX_WHOLE * NANO {
            return Err(large());
        }
        Ok(Self { text: text.to_owned(), nanos })
    }

    /// The whole amount, rounded up: bytes, or a count.
    pub fn as_whole(&self) -> i64 {
        let whole = self.nanos / NANO + i128::from(self.nanos % NANO != 0);
        i64::try_from(whole).unwrap_or(i64::MAX)
    }

    /// The amount in thousand-millionths, as Docker takes CPUs.
    pub fn as_nanos(&self) -> i64 {
        i64::try_from(self.nanos).unwrap_or(i64::MAX)
    }

    /// Whether this is more than `other`.
    pub fn exceeds(&self, other: &Self) -> bool {
        self.nanos > other.nanos
    }

    /// Whether it is a whole number.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }
}

/// What a suffix stands for, as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let thousands = |power| 1_000_i128.checked_pow(power).map(|factor| (factor, 1));
    let parts = |power| 1_000_i128.checked_pow(power).map(|factor| (1, factor));
    let binary = |power| 1_024_i128.checked_pow(power).map(|factor| (factor, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => parts(3),
        "u" => parts(2),
        "m" => parts(1),
        "k" => thousands(1),
        "M" => thousands(2),
        "G" => thousands(3),
        "T" => thousands(4),
        "P" => thousands(5),
        "E" => thousands(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let (below, digits) = match exponent.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, exponent.strip_prefix('+').unwrap_or(exponent)),
            };
            let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
            let power = digits.parse::<u32>().ok().filter(|power| plain && *power <= 24)?;
            let factor = 10_i128.checked_pow(power)?;
            Some(if below { (1, factor) } else { (factor, 1) })
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_exact() {
        for (text, whole, nanos) in [
            ("0", 0, 0),
            ("2", 2, 2_000_000_000),
            ("500m", 1, 500_000_000),
            ("1.5", 2, 1_500_000_000),
            (".5", 1, 500_000_000),
            ("1.", 1, 1_000_000_000),
            ("+3", 3, 3_000_000_000),
            ("1e3", 1_000, 1_000_000_000_000),
            ("15E-1", 2, 1_500_000_000),
            ("1n", 1, 1),
            ("0.1n", 1, 1),
        ] {
            let quantity = Quantity::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((quantity.as_whole(), quantity.as_nanos()), (whole, nanos), "{text}");
            assert_eq!(quantity.to_string(), text);
        }
        for (text, bytes) in [("128Mi", 128 << 20), ("1.5Gi", 3 << 29), ("1P", 1_000_000_000_000_000), ("1Pi", 1 << 50)]
        {
            assert_eq!(Quantity::parse(text).unwrap().as_whole(), bytes, "{text}");
        }
        for bad in [
            "",
            "-1",
            "1 Gi",
            "1gi",
            "1.2.3",
            "e3",
            "1e",
            "1e+",
            "0x10",
            "8Ei",
            "1e99",
            "m",
            "١",
            "1e-99",
            "99999999999999999999999999999999999999",
        ] {
            assert!(Quantity::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_no_sum_could_hold_is_refused_with_the_limit() {
        for large in ["7Ei", "1E", "2P", "1125899906842624.000000001", "1e24", "9223372036854775807"] {
            assert_eq!(Quantity::parse(large), Err("must be at most 1Pi".into()), "{large}");
        }
    }

    #[test]
    fn a_huge_text_is_refused_at_once() {
        for huge in ["9".repeat(1 << 20), format!("1e{}1", "0".repeat(1 << 20)), format!("0.{}", "0".repeat(1 << 20))] {
            assert!(Quantity::parse(&huge).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.eEinumkKMGTP ]{0,12}|\\PC{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(quantity.to_string(), text);
                prop_assert!(quantity.as_whole() >= 0 && quantity.as_nanos() >= 0);
            }
        }

        #[test]
        fn suffixes_and_exponents_agree(number in 0_u32..1_000, power in 0_usize..5) {
            let named = Quantity::parse(&format!("{number}{}", ["", "k", "M", "G", "T"][power])).unwrap();
            let exponent = Quantity::parse(&format!("{number}e{}", 3 * power)).unwrap();
            let thousandths = Quantity::parse(&format!("{}m", u64::from(number) * 1_000_u64.pow(u32::try_from(power).unwrap() + 1))).unwrap();
            prop_assert_eq!(named.as_whole(), i64::from(number) * 1_000_i64.pow(u32::try_from(power).unwrap()));
            prop_assert!(named.is_whole());
            for other in [exponent, thousandths] {
                prop_assert!(!named.exceeds(&other) && !other.exceeds(&named));
            }
        }
    }
}
