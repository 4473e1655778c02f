//! Requests to other services. Obligations: none is waited for without a bound, no answer is read without a bound, and no
//! redirect is followed (Spin's client follows none).

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use spin_sdk::http::FullBody;

/// How long another service may take to answer, the whole of its body included. A client of ours is answered within 5 s
/// whatever the service does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(4);

/// What a service answered.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends a request, and reads an answer of at most `longest` bytes.
///
/// # Errors
/// Why there is none, for operators. Nothing of the request is in it.
pub(crate) async fn send(request: Request<FullBody<Bytes>>, longest: usize) -> Result<Reply, String> {
    let answer = async {
        let answer = spin_sdk::http::send(request).await.map_err(|error| format!("it does not answer: {error}"))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, longest).collect().await;
        let body = body.map_err(|_| format!("its answer breaks off or is longer than {longest} bytes"))?.to_bytes();
        Ok(Reply { status: head.status, headers: head.headers, body })
    };
    match select(pin!(answer), pin!(spin_sdk::time::sleep(PATIENCE))).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => Err(format!("it does not answer within {} s", PATIENCE.as_secs())),
    }
}
