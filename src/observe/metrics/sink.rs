//! Where samples go: a page for Prometheus, or what a collector is sent.

use std::fmt;

use super::catalogue::Id;
use crate::meter::Distribution;

/// The value of a counter or a gauge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Whole(u64),
    Real(f64),
}

macro_rules! whole {
    ($($of:ty)*) => {$(
        impl From<$of> for Number {
            fn from(n: $of) -> Self {
                Self::Whole(u64::try_from(n).unwrap_or(u64::MAX))
            }
        }
    )*};
}

whole! { u8 u32 u64 u128 usize }

impl From<f64> for Number {
    fn from(n: f64) -> Self {
        Self::Real(n)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(n) => n.fmt(f),
            Self::Real(n) => n.fmt(f),
        }
    }
}

/// Takes samples, which may come in any order.
pub trait Sink {
    /// A sample of a counter or a gauge. `labels` are the values of the metric's own labels, in their order.
    fn add(&mut self, id: Id, labels: &[&str], value: impl Into<Number>);

    /// A histogram. Values were counted in a unit of which `scale` are one of the metric's.
    fn distribution(&mut self, id: Id, labels: &[&str], counted: &Distribution, scale: f64);
}
