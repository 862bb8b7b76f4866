//! How many messages come and go.

use parking_lot::Mutex;

use crate::{meter::Counter, types::Deadline};

/// A rate is told of no less than this many microseconds.
const WINDOW_MIN: u64 = 1_000_000;

/// Messages that came in and went out since the front began; one addition for each call.
#[derive(Default)]
pub struct Rates {
    sent: Counter,
    received: Counter,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    at: Deadline,
    sent: u64,
    received: u64,
    told: (f64, f64),
}

impl Rates {
    /// Producers sent so many messages.
    pub fn came_in(&self, messages: usize) {
        self.sent.add(messages as u64);
    }
    /// Consumers were given so many.
    pub fn went_out(&self, messages: usize) {
        self.received.add(messages as u64);
    }

    /// Messages in and out per second since the last time that this was asked, which counts when it was a second ago or more;
    /// the first time since the process began.
    pub fn per_second(&self, now: Deadline) -> (f64, f64) {
        let mut last = self.last.lock();
        let passed = now.as_micros().saturating_sub(last.at.as_micros());
        if passed >= WINDOW_MIN {
            let (sent, received) = (self.sent.get(), self.received.get());
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1e6 / passed as f64;
            let told = (rate(sent, last.sent), rate(received, last.received));
            *last = Last { at: now, sent, received, told };
        }
        last.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_since_they_were_asked_for_and_that_is_a_second_at_least() {
        let (rates, at) = (Rates::default(), |s: u64| Deadline::from_micros(s * 1_000_000));
        rates.came_in(20);
        assert_eq!(rates.per_second(at(10)), (2.0, 0.0));
        rates.went_out(32);
        assert_eq!(rates.per_second(at(10)), (2.0, 0.0), "too soon");
        assert_eq!(rates.per_second(at(12)), (0.0, 16.0));
    }
}
