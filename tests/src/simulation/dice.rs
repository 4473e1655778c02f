//! Chance, all of it from one seed.

use renga_reconciler::random::Random;

/// What decides in a simulation.
#[derive(Clone, Debug)]
pub(super) struct Dice(Random);

impl Dice {
    pub(super) fn from_seed(seed: u64) -> Self {
        Self(Random::from_seed(seed))
    }

    /// Further dice, whose throws leave these alone.
    pub(super) fn fork(&self) -> Self {
        Self::from_seed(self.0.number())
    }

    /// The same chance as the reconciler is given it.
    pub(super) fn random(&self) -> Random {
        Random::from_seed(self.0.number())
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number()
    }

    /// A number from 0 to less than `bound`.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.0.number() % bound.max(1)
    }

    pub(super) fn one_in(&self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    /// One of them. `None`: there is none.
    pub(super) fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        of.get(usize::try_from(self.below(of.len() as u64)).unwrap_or_default())
    }
}
