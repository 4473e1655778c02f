//! Outbound HTTP within what the manifest allows.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_component_reaches_what_it_may_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            _ = stream.read(&mut request).await;
            _ = stream.write_all(b"HTTP/1.1 203 OK\r\ncontent-length: 5\r\n\r\nthere").await;
        }
    });
    let server = Server::start(|settings| _ = settings.variables.insert("port".into(), port.to_string())).await;
    let ask = async |url: String| server.get(&format!("/outbound?url={url}")).await.text();
    assert_eq!(ask(format!("http://127.0.0.1:{port}/")).await, "203 there");
    for url in [
        format!("http://localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{}/", server.port),
        "http://127.0.0.1/".to_owned(),
    ] {
        assert!(ask(url.clone()).await.contains("HttpRequestDenied"), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_an_error() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let server = Server::start(|settings| _ = settings.variables.insert("port".into(), port.to_string())).await;
    let text = server.get(&format!("/outbound?url=http://127.0.0.1:{port}/")).await.text();
    assert!(text.contains("error") && !text.contains("Denied"), "{text}");
}
