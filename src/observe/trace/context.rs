//! W3C's trace context (`traceparent`, `tracestate`), and the ids of spans.

use http::HeaderMap;

use crate::types::random;

/// Bytes of a `tracestate` that is carried on; a longer one is left out whole, as the recommendation has it.
const STATE_BYTES_MAX: usize = 512;
/// `00-<32 digits>-<16 digits>-<2 digits>`.
const PARENT_LEN: usize = 55;
const SAMPLED: u8 = 1;

/// Which span of which trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    pub flags: u8,
}

impl Context {
    /// Reads a `traceparent`. What is malformed is no context; of a later version the known part is read.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(PARENT_LEN)?;
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let [version] = hex(&known[..2])?;
        let longer = version != 0 && rest.first() == Some(&b'-');
        if !dashes || version == 0xff || !(rest.is_empty() || longer) {
            return None;
        }
        let (trace, span, [flags]) = (hex(&known[3..35])?, hex(&known[36..52])?, hex(&known[53..55])?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// The context that a call came with.
    pub fn of_call(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all("traceparent").iter();
        let context = Self::parse(all.next()?.as_bytes())?;
        // Of two nobody knows which is meant.
        all.next().is_none().then_some(context)
    }

    /// Whether who began the trace wants it recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The first span of a new trace.
    pub fn new_trace() -> Self {
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&random().to_be_bytes());
        trace[8..].copy_from_slice(&random().to_be_bytes());
        Self { trace, span: random().to_be_bytes(), flags: SAMPLED }
    }

    /// A span below this one.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: random().to_be_bytes(), ..self }
    }
}

/// What vendors add to a call's context.
pub fn state_of_call(headers: &HeaderMap) -> String {
    let mut state = String::new();
    for value in headers.get_all("tracestate").iter().filter_map(|value| value.to_str().ok()) {
        if state.len() + value.len() >= STATE_BYTES_MAX {
            return String::new();
        }
        if !state.is_empty() {
            state.push(',');
        }
        state.push_str(value);
    }
    state
}

/// Small hexadecimal digits, as the recommendation wants them.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    (text.len() == 2 * N).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_and_what_is_malformed_is_none() {
        let read = Context::parse(PARENT.as_bytes()).expect("a context");
        assert_eq!((read.trace[0], read.trace[15], read.span[0], read.span[7]), (0x4b, 0x36, 0x00, 0xb7));
        assert!(read.is_sampled());
        assert!(!Context::parse(PARENT.replace("-01", "-02").as_bytes()).expect("a context").is_sampled());
        let later = PARENT.replacen("00", "01", 1) + "-more";
        assert_eq!(Context::parse(later.as_bytes()), Some(read));
        for wrong in [
            "".to_owned(),
            PARENT.to_uppercase(),
            PARENT.replacen("00", "ff", 1),
            PARENT[..54].to_owned(),
            format!("{PARENT}-more"),
            format!("{PARENT}0"),
            PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            PARENT.replace('-', "_"),
            PARENT.replace("4bf9", "4bé"),
        ] {
            assert_eq!(Context::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn of_two_contexts_none_is_taken_and_a_state_that_is_too_long_is_left_out() {
        let mut headers = HeaderMap::new();
        headers.append("traceparent", PARENT.parse().expect("ASCII"));
        headers.append("tracestate", "a=1".parse().expect("ASCII"));
        headers.append("tracestate", "b=2".parse().expect("ASCII"));
        assert!(Context::of_call(&headers).is_some());
        assert_eq!(state_of_call(&headers), "a=1,b=2");
        headers.append("traceparent", PARENT.parse().expect("ASCII"));
        assert_eq!(Context::of_call(&headers), None);
        headers.append("tracestate", "c".repeat(STATE_BYTES_MAX).parse().expect("ASCII"));
        assert_eq!(state_of_call(&headers), "");
    }
}
