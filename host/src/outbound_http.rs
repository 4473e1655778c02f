//! Outbound HTTP: `wasi:http/client` for components, within `allowed_outbound_hosts`.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

use crate::allowed_hosts::AllowedHosts;

/// The maximum connect timeout. A component may request less. It keeps a server that is down from blocking a request
/// until the request's own limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks a component's requests before they reach the network.
pub(crate) struct Gate {
    pub allowed: Arc<AllowedHosts>,
}

type Answer = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Answer, Error>> + Send> {
        let uri = request.uri();
        let scheme = uri.scheme_str().unwrap_or("https");
        let port = uri.port_u16().unwrap_or(if scheme == "http" { 80 } else { 443 });
        let allowed = uri.host().is_some_and(|host| self.allowed.allow(scheme, host, port));
        let mut options = options.unwrap_or_default();
        options.connect_timeout = Some(options.connect_timeout.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT));
        if !allowed {
            tracing::warn!(
                scheme,
                host = uri.host(),
                port,
                "a component asked for a host that allowed_outbound_hosts does not have"
            );
        }
        Box::new(async move {
            if !allowed {
                return Err(Error::HttpRequestDenied);
            }
            let (response, io) = default_send_request(request, Some(options)).await?;
            let io: Box<dyn Future<Output = _> + Send> = Box::new(io);
            Ok((response.map(BodyExt::boxed_unsync), io))
        })
    }
}
