//! The command line as a contract: standard output, standard error, exit codes.

mod admin;
mod apply;
mod boot;
mod config;
mod ends;
mod inspect;
mod messages;
mod usage;
