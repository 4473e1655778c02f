//! A component for the contract tests. It runs statements on its database through the adapters of the API.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use renga_database::SpinDatabase;
use renga_shared::sql::uri::DatabaseUri;
use renga_shared::sql::{Database as _, DatabaseError};
use serde_json::Value;
use spin_sdk::http::body::IncomingBodyExt as _;
use spin_sdk::http::{FullBody, Request};
use spin_sdk::http_service;

mod wire;

thread_local! {
    static DATABASE: RefCell<Option<Rc<SpinDatabase>>> = const { RefCell::new(None) };
}

/// Responds to a statement with parameters with its rows or its error.
#[http_service]
async fn answer(request: Request) -> Response<FullBody<Bytes>> {
    let answer = wire::answer(&run(request).await);
    Response::new(FullBody::new(Bytes::from(answer.to_string())))
}

async fn run(request: Request) -> Result<Vec<Vec<renga_shared::sql::Value>>, DatabaseError> {
    let garbled = || DatabaseError::Unexpected("the request is no statement".to_owned());
    let body = request.into_body().bytes().await.map_err(|_| garbled())?;
    let body: Value = serde_json::from_slice(&body).map_err(|_| garbled())?;
    let (sql, parameters) = wire::read_statement(&body).ok_or_else(garbled)?;
    let rows = database().await?.query(&sql, parameters).await?;
    Ok(rows.into_iter().map(|mut row| std::iter::from_fn(|| row.value().ok()).collect()).collect())
}

/// Returns the instance's own database, as in the API.
async fn database() -> Result<Rc<SpinDatabase>, DatabaseError> {
    if let Some(database) = DATABASE.with_borrow(Clone::clone) {
        return Ok(database);
    }
    let uri = spin_sdk::variables::get("database_uri").await;
    let uri = uri.map_err(|error| DatabaseError::Unexpected(error.to_string()))?;
    let uri = DatabaseUri::parse(&uri).map_err(|error| DatabaseError::Unexpected(error.to_string()))?;
    let database = Rc::new(SpinDatabase::new(&uri));
    DATABASE.set(Some(Rc::clone(&database)));
    Ok(database)
}
