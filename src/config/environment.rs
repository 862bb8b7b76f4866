//! What the process's environment says.

/// Starts the names of the variables that are settings: `FERROMQ_<KEY>`.
pub const PREFIX: &str = "FERROMQ_";

/// The variables that start with [`PREFIX`], less those that Kubernetes sets in every pod of a namespace that has a
/// Service named `ferromq` (`FERROMQ_SERVICE_HOST`, `FERROMQ_PORT_8081_TCP` ...): nobody meant those as settings.
///
/// A value that is not UTF-8 comes with the replacement character, so that it is refused where it is parsed.
pub fn settings() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| name.starts_with(PREFIX) && !is_service_link(name))
        .collect();
    found.sort();
    found
}

/// Whether colours are unwanted (`NO_COLOR`, <https://no-color.org>: set and not empty).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

fn is_service_link(name: &str) -> bool {
    let rest = &name[PREFIX.len()..];
    rest == "SERVICE_HOST" || rest == "PORT" || rest.starts_with("SERVICE_PORT") || rest.starts_with("PORT_")
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
        for name in ["FERROMQ_SERVICE_HOST", "FERROMQ_SERVICE_PORT_GRPC", "FERROMQ_PORT", "FERROMQ_PORT_8081_TCP_ADDR"]
        {
            assert!(is_service_link(name), "{name}");
        }
        assert!(!is_service_link("FERROMQ_GRPCSERVERPORT"));
    }

    #[test]
    fn case_and_underscores_do_not_count_in_a_variable() {
        assert_eq!(folded("GRPC_SERVER_PORT"), folded("grpcServerPort"));
    }
}
