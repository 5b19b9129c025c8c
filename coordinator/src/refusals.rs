//! Refusals in the codes that clients know.

use tonic::codegen::http::{HeaderMap, HeaderValue, Response};
use tonic::{Code, Status};

/// What tonic says of a message past its limit, in a code that means something else (gRPC, *Status codes and their use in gRPC*:
/// `OUT_OF_RANGE` is for reads past an end).
const TOO_LARGE: &str = "decoded message length too large";

/// Answers a message that is too large with RESOURCE_EXHAUSTED, as every other gRPC server does: clients split a batch on that code.
pub(crate) async fn translate<Body>(mut response: Response<Body>) -> Response<Body> {
    if is_too_large(response.headers()) {
        response.headers_mut().insert("grpc-status", HeaderValue::from(i32::from(Code::ResourceExhausted)));
    }
    response
}

fn is_too_large(headers: &HeaderMap) -> bool {
    // Nearly every answer has its status at its end and none here.
    headers.contains_key("grpc-status")
        && Status::from_header_map(headers)
            .is_some_and(|status| status.code() == Code::OutOfRange && status.message().contains(TOO_LARGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code_of(status: Status) -> Option<Code> {
        let response = translate(status.into_http::<tonic::body::Body>()).await;
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    #[tokio::test]
    async fn only_a_message_that_is_too_large_gets_another_code() {
        let said = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        assert_eq!(code_of(Status::out_of_range(said)).await, Some(Code::ResourceExhausted));
        assert_eq!(code_of(Status::out_of_range("read_offset: is outside of the blob")).await, Some(Code::OutOfRange));
        assert_eq!(code_of(Status::not_found(said)).await, Some(Code::NotFound));
    }
}
