use std::convert::Infallible;

use http_body_util::BodyExt;
use tower::{Service, service_fn};

use super::*;

async fn answer(call: impl Future<Output = Result<http::Response<ResponseBody>, Infallible>>) -> (tonic::Code, String) {
    let response = call.await.unwrap();
    let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let code = header("grpc-status").unwrap_or_default();
    (tonic::Code::from_bytes(code.as_bytes()), header("grpc-message").unwrap_or_default())
}

type Answered = std::pin::Pin<Box<dyn Future<Output = Result<http::Response<ResponseBody>, Infallible>> + Send>>;

#[tokio::test]
async fn a_panic_is_the_answer_of_its_call() {
    let handler = service_fn(|request: http::Request<&'static str>| -> Answered {
        let why = *request.body();
        assert_ne!(why, "at once", "told to fall at once");
        Box::pin(async move {
            tokio::task::yield_now().await;
            assert_ne!(why, "later", "told to fall later");
            Ok(http::Response::new(tonic::body::Body::empty().into()))
        })
    });
    let mut rescued = rescue::Rescue::new(handler);
    for why in ["at once", "later"] {
        let (code, text) = answer(rescued.call(http::Request::new(why))).await;
        assert_eq!(code, tonic::Code::Internal);
        assert!(text.contains("told%20to%20fall"), "{text}");
    }
    let fine = rescued.call(http::Request::new("not at all")).await.unwrap();
    assert_eq!(fine.headers().get("grpc-status"), None);
}

#[test]
fn methods_are_told_by_their_paths() {
    let service = "/apache.rocketmq.v2.MessagingService";
    for (path, method) in [
        ("SendMessage", Method::Send),
        ("ReceiveMessage", Method::Receive),
        ("PullMessage", Method::Pull),
        ("Telemetry", Method::Telemetry),
        ("AckMessage", Method::Other),
        ("NoSuch", Method::Other),
    ] {
        assert_eq!(Method::of(&format!("{service}/{path}")), method);
    }
    for path in ["/", "", "/apache.rocketmq.v2.MessagingServiceX/SendMessage", "/grpc.health.v1.Health/Check"] {
        assert_eq!(Method::of(path), Method::Foreign);
    }
}

#[tokio::test]
async fn a_refusal_reads_as_the_answer_of_any_rpc() {
    let refusal = || too_many("why".into());
    for method in [Method::Send, Method::Telemetry, Method::Other] {
        let body = refuse(method, refusal(), Timestamp::ZERO).into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        let bytes = body.to_bytes();
        assert_eq!(bytes[0], 0);
        assert_eq!(u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize, bytes.len() - 5);
        let sent = v2::SendMessageResponse::decode(&bytes[5..]).unwrap();
        let told = v2::TelemetryCommand::decode(&bytes[5..]).unwrap();
        assert_eq!(sent.status, Some(refusal().into()));
        assert_eq!(told.status, sent.status);
    }
    let foreign = refuse(Method::Foreign, refusal(), Timestamp::ZERO);
    assert_eq!(foreign.headers()["grpc-status"], "8");
}
