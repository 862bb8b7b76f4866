//! Everything that is tested from outside, in one binary.

mod benchmark;
mod cli;
mod clients;
mod grpcurl;
mod harness;
mod ops;
mod tidy;
mod wire;
