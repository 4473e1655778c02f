//! A component that does what the host's tests ask it to: answer, stream, trap, loop, hoard, query.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc::Sender;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use spin_sdk::http::body::IncomingBodyExt;
use spin_sdk::http::{BoxBody, FullBody, Request, Response, box_body};
use spin_sdk::http_service;
use spin_sdk::time::sleep;

mod postgres;
mod sqlite;

/// Requests that this instance has seen, those that wait in it, and streams that it has open.
static SEEN: AtomicU32 = AtomicU32::new(0);
static WAITING: AtomicU32 = AtomicU32::new(0);
static STREAMS: AtomicU32 = AtomicU32::new(0);
/// How often the gate was opened, for streams that wait for it.
static OPENED: AtomicU64 = AtomicU64::new(0);
/// Bytes that streams have written.
static WRITTEN: AtomicU64 = AtomicU64::new(0);
/// How often a stream looks whether the gate was opened.
const LOOK: Duration = Duration::from_millis(2);

#[http_service]
async fn answer(request: Request) -> Response<BoxBody> {
    let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let number = |name: &str| query.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/hello" => text("hello"),
        "/seen" => text(seen.to_string()),
        "/sized" => sized("sized"),
        "/streams-sized" => sized(STREAMS.load(Ordering::Relaxed).to_string()),
        "/waiting" => text(WAITING.load(Ordering::Relaxed).to_string()),
        "/streams" => text(STREAMS.load(Ordering::Relaxed).to_string()),
        "/written" => text(WRITTEN.load(Ordering::Relaxed).to_string()),
        "/open" => text((OPENED.fetch_add(1, Ordering::Relaxed) + 1).to_string()),
        "/headers" => headers(&request),
        "/env" => text(format!("{:?}", std::env::vars().collect::<Vec<_>>())),
        "/echo" => Response::new(box_body(request.into_body())),
        "/sink" => match request.into_body().bytes().await {
            Ok(bytes) => text(bytes.len().to_string()),
            Err(_) => status(400, "the body ended early"),
        },
        "/slow-stream" => slow_stream(number("chunks"), number("ms")),
        "/gated-stream" => gated_stream(number("chunks")),
        "/flood" => flood(number("mib")),
        "/deaf" => {
            let unread = request.into_body();
            forever().await;
            drop(unread);
            text("")
        }
        "/alone" if seen == 1 => text("alone"),
        "/stream-alone" if seen == 1 => slow_stream(1_000_000, 20),
        "/stream-alone" => {
            WAITING.fetch_add(1, Ordering::Relaxed);
            forever().await;
            text("")
        }
        "/alone" => {
            WAITING.fetch_add(1, Ordering::Relaxed);
            forever().await;
            text("")
        }
        "/wait" => {
            sleep(Duration::from_millis(number("ms"))).await;
            text("waited")
        }
        "/compute" => text(compute(number("ms")).to_string()),
        "/spin-forever" => loop {
            std::hint::black_box(compute(1));
        },
        "/hang" => {
            forever().await;
            text("")
        }
        "/trap" => {
            sleep(Duration::from_millis(number("ms"))).await;
            panic!("the test asked for it")
        }
        "/trap-in-stream" => trap_in_stream(),
        "/alloc" => alloc(number("mib")),
        "/var" => match spin_sdk::variables::get(query.get("name").map_or("", String::as_str)).await {
            Ok(value) => text(value),
            Err(error) => text(format!("error: {error:?}")),
        },
        "/outbound" => outbound(query.get("url").map_or("", String::as_str)).await,
        "/sql" => json_answer(sqlite::run(&body(request).await).await),
        "/insert" => json_answer(sqlite::insert().await),
        "/pg" => json_answer(postgres::run(&body(request).await).await),
        _ => status(404, "no such path"),
    }
}

/// Waits for nothing. A task that waits for other tasks alone would be ended by its runtime.
async fn forever() {
    loop {
        sleep(Duration::from_secs(3600)).await;
    }
}

fn text(text: impl Into<Bytes>) -> Response<BoxBody> {
    Response::new(box_body(FullBody::new(text.into())))
}

/// A text that says how long it is.
fn sized(body: impl Into<Bytes>) -> Response<BoxBody> {
    let body = body.into();
    let length = http::HeaderValue::from(body.len());
    let mut response = text(body);
    response.headers_mut().insert(http::header::CONTENT_LENGTH, length);
    response
}

fn status(status: u16, body: &'static str) -> Response<BoxBody> {
    let mut response = text(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response
}

fn json_answer(value: Value) -> Response<BoxBody> {
    text(value.to_string())
}

async fn body(request: Request) -> Value {
    let bytes = request.into_body().bytes().await.unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn headers(request: &Request) -> Response<BoxBody> {
    let headers: BTreeMap<_, _> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    json_answer(json!({ "uri": request.uri().to_string(), "headers": headers }))
}

fn compute(ms: u64) -> u64 {
    let start = std::time::Instant::now();
    let mut value = 0_u64;
    while start.elapsed() < Duration::from_millis(ms) {
        for _ in 0..1_000 {
            value = std::hint::black_box(value.wrapping_mul(31).wrapping_add(7));
        }
    }
    value
}

fn slow_stream(chunks: u64, ms: u64) -> Response<BoxBody> {
    stream(async move |mut to: Sender<Bytes>| {
        for chunk in 0..chunks {
            if to.send(Bytes::from(format!("chunk {chunk}\n"))).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(ms)).await;
        }
    })
}

/// Writes each chunk after the first when the gate is opened once more.
fn gated_stream(chunks: u64) -> Response<BoxBody> {
    stream(async move |mut to: Sender<Bytes>| {
        for chunk in 0..chunks {
            while OPENED.load(Ordering::Relaxed) < chunk {
                sleep(LOOK).await;
            }
            if to.send(Bytes::from(format!("chunk {chunk}\n"))).await.is_err() {
                break;
            }
        }
    })
}

/// Writes as fast as it is taken.
fn flood(mib: u64) -> Response<BoxBody> {
    const CHUNK: usize = 64 << 10;
    stream(async move |mut to: Sender<Bytes>| {
        for _ in 0..mib * 16 {
            if to.send(Bytes::from_static(&[b'x'; CHUNK])).await.is_err() {
                break;
            }
            WRITTEN.fetch_add(CHUNK as u64, Ordering::Relaxed);
        }
    })
}

/// An answer whose body goes on being written when its head is out.
fn stream(write: impl AsyncFnOnce(Sender<Bytes>) + 'static) -> Response<BoxBody> {
    let (to, from) = futures::channel::mpsc::channel::<Bytes>(0);
    STREAMS.fetch_add(1, Ordering::Relaxed);
    spin_sdk::wasip3::spawn(async move {
        write(to).await;
        STREAMS.fetch_sub(1, Ordering::Relaxed);
    });
    let frames = futures::StreamExt::map(from, |data| Ok::<_, std::convert::Infallible>(frame(data)));
    Response::new(box_body(http_body_util::StreamBody::new(frames).map_err(|never| match never {})))
}

fn trap_in_stream() -> Response<BoxBody> {
    let frames = futures::stream::unfold(0, |step| async move {
        sleep(Duration::from_millis(50)).await;
        assert!(step < 2, "the test asked for it");
        Some((Ok::<_, std::convert::Infallible>(frame(Bytes::from_static(b"part\n"))), step + 1))
    });
    Response::new(box_body(http_body_util::StreamBody::new(frames).map_err(|never| match never {})))
}

fn frame(data: Bytes) -> http_body::Frame<Bytes> {
    http_body::Frame::data(data)
}

fn alloc(mib: u64) -> Response<BoxBody> {
    let mut hoard = Vec::<u8>::new();
    let bytes = usize::try_from(mib << 20).unwrap_or(usize::MAX);
    if hoard.try_reserve_exact(bytes).is_err() {
        return text("refused");
    }
    hoard.resize(bytes, 1);
    text(std::hint::black_box(hoard).len().to_string())
}

async fn outbound(url: &str) -> Response<BoxBody> {
    match spin_sdk::http::get(url).await {
        Ok(response) => {
            let status = response.status().as_u16();
            let body = response.into_body().bytes().await.unwrap_or_default();
            text(format!("{status} {}", String::from_utf8_lossy(&body)))
        }
        Err(error) => text(format!("error: {error:?}")),
    }
}
