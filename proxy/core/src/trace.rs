//! W3C trace context: who a request belongs to, across processes.
//!
//! Reads and writes the `traceparent` field, and decides whether a trace is sampled: as the one
//! who sent it says, else by chance. Randomness is an argument.
//! Source: W3C Trace Context, Recommendation of 23 November 2021, section 3.

use std::fmt;

use crate::units::Percent;

/// What a caller says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace; never zero.
    pub trace: u128,
    /// The caller's span; never zero.
    pub span: u64,
    /// Whether the caller keeps its span.
    pub sampled: bool,
}

impl Parent {
    /// Reads a `traceparent` field; `None` if it is not one. Later versions may say more after
    /// what this one says.
    pub fn parse(field: &[u8]) -> Option<Self> {
        let mut parts = field.splitn(5, |byte| *byte == b'-');
        let mut next = |digits| hex(parts.next()?, digits);
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let more = parts.next().is_some();
        if version == 0xff || version == 0 && more {
            return None;
        }
        let span = u64::try_from(span).ok()?;
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// The number in exactly `digits` lower-case hex digits.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    text.iter().try_fold(0, |number: u128, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// The span of one request here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: u128,
    /// Our span.
    pub span: u64,
    /// The caller's span.
    pub parent: Option<u64>,
    /// Whether the span is kept.
    pub sampled: bool,
}

impl TraceContext {
    /// Continues the caller's trace, sampled as it says; or begins one, sampled in so many of a
    /// hundred cases. `draws` are three random numbers.
    pub fn begin(parent: Option<Parent>, sampling: Percent, draws: [u64; 3]) -> Self {
        // Zero means nothing in either number.
        let span = draws[0].max(1);
        match parent {
            Some(Parent { trace, span: parent, sampled }) => {
                Self { trace, span, parent: Some(parent), sampled }
            }
            None => Self {
                trace: (u128::from(draws[1]) << 64 | u128::from(draws[2])).max(1),
                span,
                parent: None,
                // By the trace's own number, so that everybody who asks it decides alike.
                sampled: draws[2] % 100 < u64::from(sampling.value()),
            },
        }
    }
}

impl fmt::Display for TraceContext {
    /// The `traceparent` field for the next one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_is_understood() {
        let parent = Parent::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(parent.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.span, parent.sampled), (0x00f0_67aa_0ba9_02b7, true));
        let next = TraceContext::begin(Some(parent), Percent::FULL, [7, 0, 0]);
        assert_eq!(next.to_string(), format!("{}0000000000000007-01", &EXAMPLE[..36]));
        assert_eq!(next.parent, Some(parent.span));
    }

    #[test]
    fn what_is_not_a_traceparent_begins_a_new_trace() {
        let zero = "0".repeat(32);
        for wrong in [
            "",
            "00",
            &EXAMPLE[..54],
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replacen("00-", "ff-", 1),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zero),
            &EXAMPLE.replace("00f067aa0ba902b7", &zero[..16]),
            &format!("{EXAMPLE}-what"),
            &EXAMPLE.replace('-', "_"),
            &format!(" {EXAMPLE}"),
        ] {
            assert_eq!(Parent::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let later = format!("{}-what", EXAMPLE.replacen("00-", "01-", 1));
        assert!(Parent::parse(later.as_bytes()).is_some(), "a later version may say more");
        assert!(Parent::parse(later.trim_end_matches("-what").as_bytes()).is_some());
    }

    #[test]
    fn sampling_is_the_callers_or_by_chance() {
        let parent = |sampled| Some(Parent { trace: 1, span: 1, sampled });
        let percent = |value| Percent::new(value).unwrap();
        assert!(TraceContext::begin(parent(true), percent(0), [1, 2, 3]).sampled);
        assert!(!TraceContext::begin(parent(false), percent(100), [1, 2, 3]).sampled);
        for value in [0, 1, 10, 100] {
            let kept = (0..1000)
                .filter(|draw| TraceContext::begin(None, percent(value), [1, 2, *draw]).sampled);
            assert_eq!(kept.count(), usize::from(value) * 10);
        }
        let zero = TraceContext::begin(None, percent(1), [0; 3]);
        assert!(zero.span != 0 && zero.trace != 0);
    }
}
