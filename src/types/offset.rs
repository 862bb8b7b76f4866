//! Positions. A byte in the log and an index in a queue never add to each other.

use std::fmt;

macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(u64);

        impl $name {
            pub const ZERO: Self = Self(0);
            pub const MAX: Self = Self(i64::MAX as u64);

            /// Wraps a number that is known to be a position.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }
            /// A position off the wire or off the disk, where it is a signed number: `None` when negative.
            pub fn from_wire(value: i64) -> Option<Self> {
                u64::try_from(value).ok().map(Self)
            }
            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }
            /// The number as the wire and the disk have it. Positions stay below 2^63.
            pub const fn to_wire(self) -> i64 {
                self.0 as i64
            }
            /// This position moved forward.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0 + n)
            }
            /// How far this lies behind `later`; 0 when it does not.
            pub const fn until(self, later: Self) -> u64 {
                later.0.saturating_sub(self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

offset! {
    /// Byte position in the CommitLog. Grows by record length, never reused.
    PhysicalOffset
}
offset! {
    /// Index of a message in its queue, from 0, dense.
    QueueOffset
}
