//! What becomes of unsynced things when the power goes.

use super::data::{SECTOR, Sector};

/// The outcome of a power failure for everything that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashChoice {
    /// All of it reached the device.
    KeepAll,
    /// None of it did.
    DropAll,
    /// All of it did, but of the last write only the first half.
    TearLast,
    /// Only the last write did: the device wrote in another order.
    KeepLast,
    /// Bytes and lengths did; created, removed and renamed names did not.
    NamesLost,
    /// Created, removed and renamed names did; bytes did not, and lengths did: files full of zeros.
    BytesLost,
    /// Each by itself was kept, dropped or torn, as the seed says.
    Random(u64),
}

impl CrashChoice {
    /// The outcomes that need no seed: for exhaustive tests.
    pub const FIXED: [Self; 6] =
        [Self::KeepAll, Self::DropAll, Self::TearLast, Self::KeepLast, Self::NamesLost, Self::BytesLost];
}

/// One sector at the crash.
pub(super) struct Unsynced<'a> {
    pub durable: &'a Sector,
    /// Contents it had since the last sync, oldest first, without the present one.
    pub between: &'a [Sector],
    pub present: &'a Sector,
    /// How many bytes, from the sector's first, the last write of all would have to reach for a tear in its middle:
    /// `None` when that write did not touch the sector.
    pub last_write_middle: Option<usize>,
}

/// Decides, thing by thing.
pub(super) struct Chooser {
    choice: CrashChoice,
    rng: SplitMix,
    /// Of 256, for this crash: some lose nearly all, some hardly anything.
    keep: u64,
}

impl Chooser {
    pub fn new(choice: CrashChoice) -> Self {
        let mut rng = SplitMix(if let CrashChoice::Random(seed) = choice { seed } else { 0 });
        let keep = [16, 64, 128, 192, 240][rng.below(5) as usize];
        Self { choice, rng, keep }
    }

    /// Whether an unsynced change of a directory reached the device.
    pub fn keeps_name(&mut self) -> bool {
        match self.choice {
            CrashChoice::KeepAll | CrashChoice::TearLast | CrashChoice::BytesLost => true,
            CrashChoice::DropAll | CrashChoice::KeepLast | CrashChoice::NamesLost => false,
            CrashChoice::Random(_) => self.coin(),
        }
    }

    /// The length on the device; `between` are the unsynced ones before the present.
    pub fn len(&mut self, durable: u64, between: &[u64], present: u64) -> u64 {
        match self.choice {
            CrashChoice::DropAll => durable,
            CrashChoice::Random(_) => {
                let i = self.rng.below(between.len() as u64 + 1) as usize;
                match (self.coin(), i) {
                    (true, _) => present,
                    (false, 0) => durable,
                    (false, i) => between[i - 1],
                }
            }
            _ => present,
        }
    }

    pub fn sector(&mut self, s: &Unsynced<'_>) -> Sector {
        let before = s.between.last().unwrap_or(s.durable);
        match self.choice {
            CrashChoice::KeepAll | CrashChoice::NamesLost => *s.present,
            CrashChoice::DropAll | CrashChoice::BytesLost => *s.durable,
            CrashChoice::TearLast => match s.last_write_middle {
                Some(middle) => torn(s.present, before, middle),
                None => *s.present,
            },
            CrashChoice::KeepLast if s.last_write_middle.is_some() => *s.present,
            CrashChoice::KeepLast => *s.durable,
            CrashChoice::Random(_) => self.random_sector(s),
        }
    }

    fn random_sector(&mut self, s: &Unsynced<'_>) -> Sector {
        if self.rng.below(16) == 0 {
            let at = 1 + self.rng.below(SECTOR as u64 - 1) as usize;
            return if self.coin() { torn(s.present, s.durable, at) } else { torn(s.durable, s.present, at) };
        }
        if self.coin() {
            return *s.present;
        }
        let i = self.rng.below(s.between.len() as u64 + 1) as usize;
        if i == 0 { *s.durable } else { s.between[i - 1] }
    }

    fn coin(&mut self) -> bool {
        self.rng.below(256) < self.keep
    }
}

fn torn(first: &Sector, then: &Sector, at: usize) -> Sector {
    let mut out = *first;
    out[at..].copy_from_slice(&then[at..]);
    out
}

/// Steele, Lea and Flood's SplitMix64: small, seeded, good enough to choose by.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
