//! What the process's environment says.

/// Starts the names of the variables that are settings: `FERROMQ_<KEY>`.
pub const PREFIX: &str = "FERROMQ_";

/// The variables that start with [`PREFIX`], less those that Kubernetes sets in every pod of a namespace that has a
/// Service named `ferromq` or `ferromq-...` (`FERROMQ_SERVICE_HOST`, `FERROMQ_ADMIN_PORT_8083_TCP` ...): nobody meant
/// those as settings.
///
/// A value that is not UTF-8 comes with the replacement character, so that it is refused where it is parsed.
pub fn settings() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, value)| name.starts_with(PREFIX) && !is_service_link(name, value))
        .collect();
    found.sort();
    found
}

/// Whether colours are unwanted (`NO_COLOR`, <https://no-color.org>: set and not empty).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

/// The command that started this process, as it was typed: what to type again.
pub fn program() -> String {
    std::env::args().next().filter(|name| !name.is_empty()).unwrap_or_else(|| "ferromq".into())
}

fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let rest = &name[PREFIX.len()..];
    let has = |part: &str| rest.starts_with(part) || rest.contains(&format!("_{part}"));
    let is_port_part =
        rest.split("PORT_").skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()) && after.contains('_'));
    has("SERVICE_HOST") || has("SERVICE_PORT") || is_port_part || (is_url && has("PORT"))
}

/// A key as a variable may spell it: case and underscores do not count, so that `FERROMQ_grpcServerPort`,
/// `FERROMQ_GRPCSERVERPORT` and `FERROMQ_GRPC_SERVER_PORT` are one.
pub fn folded(key: &str) -> String {
    key.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_a_kubernetes_service_are_not_settings() {
        for (name, value) in [
            ("FERROMQ_SERVICE_HOST", "10.0.0.1"),
            ("FERROMQ_SERVICE_PORT_GRPC", "8081"),
            ("FERROMQ_PORT", "tcp://10.0.0.1:8081"),
            ("FERROMQ_PORT_8081_TCP", "tcp://10.0.0.1:8081"),
            ("FERROMQ_PORT_8081_TCP_ADDR", "10.0.0.1"),
            ("FERROMQ_ADMIN_SERVICE_HOST", "10.0.0.1"),
            ("FERROMQ_ADMIN_PORT", "tcp://10.0.0.1:8083"),
            ("FERROMQ_ADMIN_PORT_8083_TCP_PROTO", "tcp"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for name in ["FERROMQ_GRPCSERVERPORT", "FERROMQ_GRPC_SERVER_PORT", "FERROMQ_ADMIN_SERVER_PORT"] {
            assert!(!is_service_link(name, "8081"), "{name}");
        }
    }

    #[test]
    fn case_and_underscores_do_not_count_in_a_variable() {
        assert_eq!(folded("GRPC_SERVER_PORT"), folded("grpcServerPort"));
    }
}
