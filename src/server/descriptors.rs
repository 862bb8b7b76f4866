//! File descriptors: as many as the system gives, and never all of them to clients.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// What the store may have open at once (queue files, segments, state files), and what the process itself needs.
const KEPT: u64 = 1024;

/// Connections that somebody will miss: fewer are told at the start.
const FEW: usize = 1024;

/// Raises the limit of open files as far as the system lets this process, and lets clients have what the store leaves: a
/// store that cannot open its next file must not be the price of many connections.
pub fn share_out(config: &mut Config) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => before.maximum,
        Err(_) => before.current,
    };
    let Some(limit) = limit else { return };
    let wanted = config.proxy.limits.connections_max;
    let granted = connections(limit, wanted);
    config.proxy.limits.connections_max = granted;
    if granted < wanted.min(FEW) {
        tracing::warn!(
            limit,
            wanted,
            granted,
            "few connections are possible: raise the limit of open files (ulimit -n)"
        );
    }
}

/// A quarter of a small limit goes to clients, and all but [`KEPT`] of a large one.
fn connections(limit: u64, wanted: usize) -> usize {
    let left = limit.saturating_sub(KEPT).max(limit / 4);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_every_descriptor() {
        assert_eq!(connections(1024, 20_000), 256);
        assert_eq!(connections(4096, 20_000), 3072);
        assert_eq!(connections(1 << 20, 20_000), 20_000);
    }
}
