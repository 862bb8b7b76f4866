//! Who calls, with what, from where and until when, read from the metadata once.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, uri::Authority};
use tower::Service;

use crate::{observe::trace, proto::v2::Code, types::ClientId};

use super::{Method, Permit, Surroundings, limit::Metered, refuse};
use crate::proxy::status::Refusal;

/// Bytes of a client id at most; official clients stay below 100.
const CLIENT_ID_BYTES_MAX: usize = 512;

/// The language of a client's SDK (`x-mq-language`). Some clients' servers and filters depend on it; none may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Java,
    Go,
    Python,
    /// Says `HTTP`.
    NodeJs,
    Cpp,
    DotNet,
    Rust,
    Other,
}

impl Language {
    /// As metrics tell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Java => "java",
            Self::Go => "go",
            Self::Python => "python",
            Self::NodeJs => "node_js",
            Self::Cpp => "cpp",
            Self::DotNet => "dotnet",
            Self::Rust => "rust",
            Self::Other => "other",
        }
    }

    fn of(text: &[u8]) -> Self {
        match text {
            b"JAVA" => Self::Java,
            b"GO" => Self::Go,
            b"PYTHON" => Self::Python,
            b"HTTP" | b"NODE_JS" => Self::NodeJs,
            b"CPP" => Self::Cpp,
            b"DOTNET" => Self::DotNet,
            b"RUST" => Self::Rust,
            _ => Self::Other,
        }
    }
}

/// What a handler knows about its call; in the request's extensions.
#[derive(Clone)]
pub struct Call {
    pub client: ClientId,
    pub language: Language,
    /// `x-mq-client-version`.
    pub version: Option<HeaderValue>,
    /// What the client says that it dialled.
    pub authority: Option<Authority>,
    /// What was left until the client's deadline when the call arrived; `None` is no deadline.
    pub timeout: Option<Duration>,
    /// Whether its requests are compressed (`grpc-encoding`).
    pub compressed: bool,
    /// The call's share of the load.
    pub permit: Arc<Permit>,
}

impl Call {
    fn read(headers: &HeaderMap, authority: Option<&Authority>, permit: &Arc<Permit>) -> Result<Self, Refusal> {
        let id = headers.get("x-mq-client-id").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let required = |why| Refusal::new(Code::ClientIdRequired, format_args!("x-mq-client-id {why}"));
        if id.len() > CLIENT_ID_BYTES_MAX {
            return Err(required("is longer than 512 bytes"));
        }
        Ok(Self {
            client: ClientId::parse(id).map_err(|_| required("is missing or blank"))?,
            language: headers.get("x-mq-language").map_or(Language::Other, |v| Language::of(v.as_bytes())),
            version: headers.get("x-mq-client-version").cloned(),
            authority: authority.cloned(),
            timeout: headers.get("grpc-timeout").and_then(timeout),
            compressed: headers.get("grpc-encoding").is_some_and(|v| v != "identity"),
            permit: permit.clone(),
        })
    }

    pub fn version(&self) -> Option<&str> {
        self.version.as_ref().and_then(|v| v.to_str().ok())
    }
}

/// `grpc-timeout`: at most eight digits and a unit. A malformed one is none.
fn timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

pub struct Context<S> {
    inner: S,
    around: Arc<Surroundings>,
}

impl<S> Context<S> {
    pub fn new(inner: S, around: Arc<Surroundings>) -> Self {
        Self { inner, around }
    }
}

type Answer = Result<http::Response<tonic::body::Body>, Infallible>;

impl<S, B> Service<http::Request<Metered<B>>> for Context<S>
where
    S: Service<
            http::Request<Metered<B>>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Unpin,
        >,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Answer>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, mut request: http::Request<Metered<B>>) -> Self::Future {
        let method = Method::of(request.uri().path());
        if method != Method::Foreign {
            match Call::read(request.headers(), request.uri().authority(), request.body().permit()) {
                Ok(call) => {
                    call.permit.note(|notes| notes.client = trace::cut(call.client.as_str()));
                    request.extensions_mut().insert(call);
                }
                Err(refusal) => {
                    let now = self.around.front.broker.clock().wall();
                    return Either::Right(ready(Ok(refuse(method, refusal, now))));
                }
            }
        }
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_read_in_each_unit() {
        let read = |text: &str| timeout(&HeaderValue::from_str(text).unwrap());
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("18000m", Some(Duration::from_secs(18))),
            ("5000000u", Some(Duration::from_secs(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in ["", "S", "5", "5s", "-1S", "+1S", "123456789m", "1.5S", "5 S", "é"] {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(timeout(&value), None, "{text}");
        }
    }
}
