//! Capped exponential back-off with jitter, for whatever has to be tried again for ever.
//!
//! Pure: the caller brings the randomness and does the waiting. Every delay lies between half and the whole of a
//! step that doubles from `first` to `cap`, so that a fleet that lost its broker at one instant doesn't come back at one
//! instant.

use std::time::Duration;

/// The delays between tries of one thing.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    step: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Backoff { first, cap, step: first }
    }

    /// The delay before the next try. `random` is uniform in 0.0..=1.0; anything else counts as 0.
    pub fn next(&mut self, random: f64) -> Duration {
        let step = self.step;
        self.step = self.cap.min(step.saturating_mul(2));
        let random = if (0.0..=1.0).contains(&random) { random } else { 0.0 };
        step.mul_f64(0.5 + random / 2.0)
    }

    /// The thing works: the next failure starts from the shortest delay again.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_never_leave_half_to_whole_of_a_capped_step() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 5 * second);
        let low: Vec<_> = (0..5).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(low, [500, 1000, 2000, 2500, 2500]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), second);
        assert_eq!(backoff.next(f64::NAN), second, "a step of 2 s, halved");
        assert_eq!(backoff.next(-1.0), 2 * second, "a step of 4 s, halved");
    }
}
