//! Hands requests to instances of one component, and settles what a client gets when an instance ends.
//!
//! Obligations:
//! - Instances are reused and answer several requests at once; a request never waits for a computing one while another
//!   instance may still be made.
//! - What an instance has learnt of a caller serves that caller's next requests: they go to the same few instances, as long
//!   as these can take them.
//! - When an instance traps, loops or takes too long, its own requests alone are affected. Which of several it was that
//!   broke the instance cannot be told: each `GET` or `HEAD` without a body that had no answer yet is asked once more,
//!   in an instance that it has for itself.
//! - What stays open for long, as a log that is followed does, takes nothing from others: a request that takes long
//!   gives up its place among those that run; an instance with open answers is replaced only as long as few such
//!   instances linger (see [`Worker::should_accept_request`]).
//! - A client learns what happened to its request (500, 503 or 504), and nothing of why. An answer that was cut off
//!   does not look like a whole one.

use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Sleep, sleep, timeout_at};
use wasmtime::component::GuestTaskId;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, InstantiationError, ProxyHandler, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use crate::instance::{Health, State, Template};
use crate::occupancy::{Occupancy, Open, Running};
use crate::problem::Problem;
use crate::settings::Limits;
use crate::streams::holding;

/// Between two attempts to get an instance when there are as many as allowed.
const INSTANCE_POLL: Duration = Duration::from_millis(10);
/// What [`WorkerExpiration`] adds to the request limit: the limit itself is enforced outside.
const GRACE: Duration = Duration::from_millis(200);

/// Into how many groups the instances are divided. With more of them a caller's requests meet fewer instances that do not know
/// the caller; with fewer, less memory is held by instances that are seldom needed.
const GROUPS: usize = 8;

/// The instances of one component.
pub(crate) struct Pool {
    /// Groups of them, as large as their requests need.
    shared: Vec<ProxyHandler<Instances>>,
    /// Which group is a caller's. Nobody can know it from outside, and send all to one.
    callers: RandomState,
    /// One request per instance, one instance per request: for those that may have broken an instance.
    quarantine: [ProxyHandler<Instances>; 1],
    /// How many of those there may be.
    quarantined: Arc<Semaphore>,
    first_byte: Duration,
}

/// The link from a request to its instance, which tells whether the instance broke. It is kept as long as the request or
/// its answer is open.
type Visit = Arc<OnceLock<Begun>>;

/// An instance has begun with a request.
struct Begun {
    health: Arc<Health>,
    _open: Open,
}

impl Pool {
    /// `lingering` is how many instances of all components may be kept by their open answers alone.
    pub(crate) fn new(template: Template, limits: &Limits, lingering: &Arc<Semaphore>) -> Self {
        let template = Arc::new(template);
        let shared = Reuse {
            concurrent: limits.requests_per_instance,
            open: limits.open_per_instance,
            place: limits.place,
            total: limits.requests_before_retirement,
            idle: limits.idle_instance,
            request: limits.first_byte + GRACE,
        };
        let alone = Reuse { concurrent: 1, open: 1, total: 1, idle: Duration::ZERO, ..shared };
        let handler = |reuse, lingering| ProxyHandler::new(Instances { template: template.clone(), reuse, lingering });
        Self {
            shared: (0..GROUPS).map(|_| handler(shared, Some(lingering.clone()))).collect(),
            callers: RandomState::new(),
            // These end with their request, and are bounded by the number of requests.
            quarantine: [handler(alone, None)],
            quarantined: Arc::new(Semaphore::new(usize::try_from(limits.instances / 4).unwrap_or(1).max(1))),
            first_byte: limits.first_byte,
        }
    }

    /// The component's answer, or the host's in its place.
    pub(crate) async fn answer(&self, request: Request<WasiBody>) -> Response<WasiBody> {
        let deadline = tokio::time::Instant::now() + self.first_byte;
        let again = repeatable(&request);
        let group = self.group_of(&request);
        let problem = match attempt(&self.shared, group, request, deadline).await {
            Ok(response) => return response,
            Err(problem) => problem,
        };
        let problem = match again {
            Some(request) if problem.instance_ended => match self.ask_alone(request, deadline).await {
                Ok(response) => return response,
                Err(problem) => problem,
            },
            _ => problem,
        };
        problem.answer.response()
    }

    /// Asks an instance that the request has for itself, until its answer has ended.
    async fn ask_alone(
        &self,
        request: Request<WasiBody>,
        deadline: tokio::time::Instant,
    ) -> Result<Response<WasiBody>, Refused> {
        let Ok(Ok(alone)) = timeout_at(deadline, self.quarantined.clone().acquire_owned()).await else {
            return Err(Problem::Busy.into());
        };
        let response = attempt(&self.quarantine, 0, request, deadline).await?;
        Ok(response.map(|body| holding(body, alone)))
    }

    /// The group that has seen a caller before, if any has.
    fn group_of(&self, request: &Request<WasiBody>) -> usize {
        let caller = request.headers().get(header::AUTHORIZATION);
        // Fewer groups than numbers of any width.
        self.callers.hash_one(caller) as usize % self.shared.len()
    }
}

/// A copy of a request that can be made twice without harm.
fn repeatable(request: &Request<WasiBody>) -> Option<Request<WasiBody>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

struct Refused {
    answer: Problem,
    /// The instance ended under the request, perhaps through no fault of it.
    instance_ended: bool,
}

impl From<Problem> for Refused {
    fn from(answer: Problem) -> Self {
        Self { answer, instance_ended: false }
    }
}

/// Asks one of these groups, the one with number `first` if it has or gets an instance.
async fn attempt(
    groups: &[ProxyHandler<Instances>],
    first: usize,
    mut request: Request<WasiBody>,
    deadline: tokio::time::Instant,
) -> Result<Response<WasiBody>, Refused> {
    let visit = Visit::default();
    // How many groups were found to be full, again and again.
    let mut tried = 0;
    loop {
        let handler = &groups[(first + tried) % groups.len()];
        let Ok(outcome) = timeout_at(deadline, handler.handle(visit.clone(), request)).await else {
            // No instance has begun with it: there was none, up to the last moment.
            if visit.get().is_none() {
                return Err(Problem::Busy.into());
            }
            tracing::warn!(component = handler.state().template.id(), "a request took longer than it may");
            return Err(Problem::TimedOut.into());
        };
        let error = match outcome {
            Ok(response) => return Ok(whole_or_cut(response, visit)),
            Err(error) => error,
        };
        if error.is::<ExpirationError>() {
            return Err(Problem::TimedOut.into());
        }
        match error.downcast::<InstantiationError<Visit>>() {
            Ok(full) => {
                if !full.error.is::<wasmtime::PoolConcurrencyLimitError>() {
                    tracing::error!(component = handler.state().template.id(), error = ?full.error, "no instance could be made");
                    return Err(Problem::Failed.into());
                }
                // As many instances as allowed: another group may have one to spare, or one becomes free.
                tried += 1;
                // Each is tried at once, and then one at a time: trying costs something where all are full.
                if tried >= groups.len() {
                    if tokio::time::Instant::now() + INSTANCE_POLL >= deadline {
                        return Err(Problem::Busy.into());
                    }
                    sleep(INSTANCE_POLL).await;
                }
                request = full.request.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            Err(_) => {
                let overran = visit.get().is_some_and(|begun| begun.health.overran());
                return Err(Refused {
                    answer: if overran { Problem::TimedOut } else { Problem::Failed },
                    instance_ended: true,
                });
            }
        }
    }
}

/// An answer whose body fails where its instance ended in the middle of it: what is cut off must not seem whole.
fn whole_or_cut(response: Response<WasiBody>, visit: Visit) -> Response<WasiBody> {
    response.map(|body| Guarded { body, visit }.boxed_unsync())
}

struct Guarded {
    body: WasiBody,
    visit: Visit,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            None if self.visit.get().is_some_and(|begun| begun.health.broke()) => {
                Some(Err(Error::HttpResponseIncomplete))
            }
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Clone, Copy)]
struct Reuse {
    concurrent: usize,
    open: usize,
    place: Duration,
    total: usize,
    idle: Duration,
    request: Duration,
}

/// Makes instances.
struct Instances {
    template: Arc<Template>,
    reuse: Reuse,
    lingering: Option<Arc<Semaphore>>,
}

impl HandlerState for Instances {
    type StoreData = State;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<State, Expiration, Worker>> {
        let (store, proxy, health) = self.template.instantiate().await?;
        let occupancy = Arc::<Occupancy>::default();
        Ok(Instance {
            store,
            proxy,
            view: WasiHttpView::http,
            expiration: Expiration {
                health: health.clone(),
                occupancy: occupancy.clone(),
                reuse: self.reuse,
                sleep: Box::pin(sleep(self.reuse.idle)),
            },
            state: Worker {
                template: self.template.clone(),
                reuse: self.reuse,
                health,
                occupancy,
                lingering: self.lingering.clone(),
                lingers: OnceLock::new(),
            },
        })
    }
}

/// Ends an instance from outside, whatever it does: idle for long, or far beyond the limit of its last request.
struct Expiration {
    health: Arc<Health>,
    occupancy: Arc<Occupancy>,
    reuse: Reuse,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        self.health.pauses();
        self.occupancy.watch(cx.waker());
        let limit = match status {
            WorkerStatus::Idle => self.reuse.idle,
            WorkerStatus::Requests => self.reuse.request,
            // A request that nobody waits for any more never ended: what streams beside it gets this long to end.
            WorkerStatus::PostReturn if self.health.hangs() => self.reuse.request,
            // Its answers are on their way, some as streams that follow something for hours: those that nobody reads
            // end with their connection.
            WorkerStatus::PostReturn => return Poll::Pending,
        };
        let deadline = (start + limit).into();
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

/// One instance at work.
struct Worker {
    template: Arc<Template>,
    reuse: Reuse,
    health: Arc<Health>,
    occupancy: Arc<Occupancy>,
    /// How many instances may linger. `None`: this one always may.
    lingering: Option<Arc<Semaphore>>,
    /// It takes no more requests, and is one of those that linger.
    lingers: OnceLock<OwnedSemaphorePermit>,
}

impl Worker {
    /// Whether it may be replaced now. With nothing open it ends at once. Otherwise it lives on until the last answer
    /// has ended, perhaps for hours: too many such would leave no instance for requests.
    fn may_retire(&self) -> bool {
        let Some(lingering) = self.lingering.as_ref().filter(|_| self.occupancy.open() > 0) else { return true };
        let place = lingering.clone().try_acquire_owned();
        place.is_ok_and(|place| self.lingers.set(place).is_ok())
    }
}

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = Visit;

    fn should_accept_request(&self, _: usize, total: usize) -> ShouldAccept {
        if total >= self.reuse.total && self.may_retire() {
            ShouldAccept::Never
        } else if self.occupancy.running() >= self.reuse.concurrent || self.occupancy.open() >= self.reuse.open {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _: StoreContextMut<'_, State>,
        visit: Visit,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        // Set once per attempt; an attempt that found no instance never gets here.
        _ = visit.set(Begun { health: self.health.clone(), _open: Open::new(&self.occupancy) });
        let running = Running::new(&self.occupancy);
        let (health, place, request) = (self.health.clone(), self.reuse.place, self.reuse.request);
        Box::pin(async move {
            // Open until it is answered, even if its client is gone.
            let _visit = visit;
            sleep(place).await;
            drop(running);
            sleep(request.saturating_sub(place)).await;
            health.note_hang();
        })
    }

    fn drop(&self, store: Store<State>, result: Result<(), wasmtime::Error>) {
        if let Err(error) = result {
            // Known before the store is gone, and with it the streams of its answers.
            self.health.note_broken();
            if !self.template.stopped() {
                tracing::error!(component = self.template.id(), error = format!("{error:?}"), "an instance ended");
            }
        }
        drop(store);
    }
}
