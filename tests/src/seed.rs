//! Randomness that can be repeated: a printed seed, taken from `TIDINGS_SEED`.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The environment variable that repeats a run.
pub const VARIABLE: &str = "TIDINGS_SEED";

/// What a random test starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

// === impl Seed ===

impl Seed {
    /// The seed of `TIDINGS_SEED`, or a new one. Printed, so that a failure can be repeated.
    ///
    /// # Panics
    /// When `TIDINGS_SEED` is not a number.
    pub fn from_environment() -> Self {
        let seed = match std::env::var(VARIABLE) {
            Ok(text) => Self(text.trim().parse().unwrap_or_else(|_| panic!("{VARIABLE} is a number, not {text:?}"))),
            Err(_) => Self(rand::rng().random()),
        };
        eprintln!("seed: run again with {VARIABLE}={}", seed.0);
        seed
    }

    /// A given one.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number, as `TIDINGS_SEED` takes it.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The `n`th of the seeds that follow from this one; the 0th is this one itself.
    pub fn nth(self, n: u64) -> Self {
        Self(self.0.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A generator that repeats itself for the same seed.
    pub fn rng(self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let draw = |seed: Seed| seed.rng().random::<u64>();
        assert_eq!(draw(Seed::new(7)), draw(Seed::new(7)));
        assert_ne!(draw(Seed::new(7)), draw(Seed::new(7).nth(1)));
        assert_eq!(Seed::new(7).nth(0), Seed::new(7));
    }
}
