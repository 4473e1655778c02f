//! What the watches have shown, with what was done here and they have yet to show.
//!
//! An answer of the API server to a call of ours is put in like an event. Whichever is newer stands, so that who made an
//! object sees it at once, and an event that comes late takes nothing back.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use renga_shared::domain::{ExecutionId, Why};
use tokio::sync::{Notify, broadcast, watch};

use super::failure::Failure;
use super::pod::PodSeen;
use super::ports::ServiceSeen;
use super::state::{JobSeen, Known, ObjectId};
use crate::engine::EngineEvent;

/// How many events may wait for whoever hears them. Who misses some is told to look at everything.
const WAITING_EVENTS: usize = 4_096;
/// How many Jobs that are gone are remembered, so that no late answer brings one back.
const GONE: usize = 1_024;

/// How long a broken watch may take to come back before the store is not to be believed.
const MOMENT: Duration = Duration::from_millis(1_500);
/// How long listing everything may take.
const LIST_WITHIN: Duration = Duration::from_secs(30);

/// One watch: a kind of objects in a namespace, or in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Jobs,
    Pods,
    Services,
    Warnings,
}

/// A watch by its kind and the number of its namespace.
pub(super) type WatchId = (Kind, usize);

/// How a watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It has not listed everything yet.
    Listing,
    Current,
    Broken(Failure),
}

/// What is known of all executions of a deployment in a cluster.
#[derive(Debug)]
pub(super) struct Store {
    inner: Mutex<Inner>,
    events: broadcast::Sender<EngineEvent>,
    /// The worst of all watches.
    health: watch::Sender<Health>,
    /// Who waits for a change of an execution.
    waiting: Mutex<HashMap<ExecutionId, Weak<Notify>>>,
}

#[derive(Debug, Default)]
struct Inner {
    executions: HashMap<ExecutionId, Known>,
    watches: BTreeMap<WatchId, Health>,
    /// What a list in progress has shown, or was put in meanwhile, by its watch.
    listed: HashMap<WatchId, HashSet<String>>,
    gone: VecDeque<String>,
}

impl Store {
    pub(super) fn new(watches: impl IntoIterator<Item = WatchId>) -> Self {
        let watches = watches.into_iter().map(|watch| (watch, Health::Listing)).collect();
        Self {
            inner: Mutex::new(Inner { watches, ..Inner::default() }),
            events: broadcast::Sender::new(WAITING_EVENTS),
            health: watch::Sender::new(Health::Listing),
            waiting: Mutex::default(),
        }
    }

    /// What is known of an execution.
    pub(super) fn known(&self, id: ExecutionId) -> Option<Known> {
        self.lock().executions.get(&id).filter(|known| known.job.is_some()).cloned()
    }

    /// What is known of an object, if its execution's object is still that one.
    pub(super) fn object(&self, id: &ObjectId) -> Option<Known> {
        let known = self.known(id.execution()?)?;
        known.job.as_ref().is_some_and(|job| job.uid == id.uid).then_some(known)
    }

    pub(super) fn all<T>(&self, read: impl FnMut(&Known) -> Option<T>) -> Vec<T> {
        self.lock().executions.values().filter_map(read).collect()
    }

    /// The events from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<EngineEvent> {
        self.events.subscribe()
    }

    /// Is told of every change of an execution that comes after it asks to be.
    pub(super) fn waiter(&self, id: ExecutionId) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.get(&id).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            // Nobody waits for ever, and most of what was waited for is never heard of again.
            waiting.retain(|_, waiter| waiter.strong_count() > 0);
            let notify = Arc::default();
            waiting.insert(id, Arc::downgrade(&notify));
            notify
        })
    }

    /// Completes when everything that is watched is known, or when that cannot be said: a watch is broken, and not just
    /// for a moment.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        let mut health = self.health.subscribe();
        let current = async {
            // The sender lives as long as this.
            let _ = health.wait_for(|health| *health == Health::Current).await;
        };
        tokio::select! {
            biased;
            () = current => Ok(()),
            failure = self.broken() => Err(failure),
            () = tokio::time::sleep(LIST_WITHIN) => Err(Failure::Down("it is still listing what it has".into())),
        }
    }

    /// Completes when a watch is broken, and not just for a moment.
    pub(super) async fn broken(&self) -> Failure {
        let mut health = self.health.subscribe();
        loop {
            let broken =
                health.wait_for(|health| matches!(health, Health::Broken(_))).await.map(|health| health.clone());
            let Ok(Health::Broken(failure)) = broken else { return Failure::Down("nothing is watched".into()) };
            let mended = health.wait_for(|health| *health == Health::Current);
            if tokio::time::timeout(MOMENT, mended).await.is_err() {
                return failure;
            }
        }
    }

    pub(super) fn is_current(&self, watch: WatchId) -> bool {
        self.lock().watches.get(&watch) == Some(&Health::Current)
    }

    pub(super) fn set_health(&self, watch: WatchId, health: Health) {
        let worst = {
            let mut inner = self.lock();
            inner.watches.insert(watch, health);
            inner.worst()
        };
        self.health.send_if_modified(|known| std::mem::replace(known, worst.clone()) != worst);
    }

    /// A watch begins to list everything.
    pub(super) fn begin_list(&self, watch: WatchId) {
        self.lock().listed.insert(watch, HashSet::new());
    }

    /// A watch has listed everything: what it did not show, in its namespace if it has one, is gone.
    pub(super) fn end_list(&self, watch: WatchId, namespace: Option<&str>) {
        let mut inner = self.lock();
        let listed = inner.listed.remove(&watch).unwrap_or_default();
        // Each object is judged by its own namespace: its Job may not be known yet, or never be.
        let gone = |of: &str, uid: &str| namespace.is_none_or(|name| name == of) && !listed.contains(uid);
        let mut ended = Vec::new();
        for known in inner.executions.values_mut() {
            match watch.0 {
                Kind::Jobs => ended.extend(known.job.take_if(|job| gone(&job.namespace, &job.uid)).map(|job| job.uid)),
                Kind::Pods => known.pod_gone |= known.pod.as_ref().is_some_and(|pod| gone(&pod.namespace, &pod.uid)),
                Kind::Services => drop(known.service.take_if(|service| gone(&service.namespace, &service.uid))),
                Kind::Warnings => {}
            }
        }
        for uid in ended {
            inner.forget(uid);
        }
        inner.executions.retain(|_, known| !known.is_empty());
        drop(inner);
        self.set_health(watch, Health::Current);
        // Nobody has to listen.
        let _ = self.events.send(EngineEvent::Resync);
        for waiter in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade) {
            waiter.notify_waiters();
        }
    }

    /// A Job as a watch or an answer shows it. `watch`: the one that its namespace belongs to.
    pub(super) fn put_job(&self, watch: WatchId, job: JobSeen) {
        let id = job.execution;
        let mut inner = self.lock();
        if inner.gone.contains(&job.uid) {
            return;
        }
        inner.shown(watch, &job.uid);
        let known = inner.executions.entry(id).or_default();
        match &known.job {
            Some(before) if before.uid == job.uid && before.version >= job.version => return,
            // Another object has the name now: what was known of the former says nothing of it.
            Some(before) if before.uid != job.uid => {
                let pod = known.pod.take().filter(|pod| pod.owner == job.uid);
                *known = Known { job: Some(job), pod, ..Known::default() };
            }
            _ => known.job = Some(job),
        }
        drop(inner);
        self.changed(id);
    }

    pub(super) fn job_gone(&self, id: ExecutionId, uid: &str) {
        let mut inner = self.lock();
        inner.forget(uid.to_owned());
        let Some(known) = inner.executions.get_mut(&id) else { return };
        if known.job.take_if(|job| job.uid == uid).is_none() {
            return;
        }
        inner.executions.remove(&id);
        drop(inner);
        self.changed(id);
    }

    pub(super) fn put_pod(&self, watch: WatchId, id: ExecutionId, mut pod: PodSeen) {
        let mut inner = self.lock();
        inner.shown(watch, &pod.uid);
        let known = inner.executions.entry(id).or_default();
        match &known.pod {
            Some(before) if before.uid == pod.uid && before.version >= pod.version => return,
            Some(before) if before.uid == pod.uid => pod.keep_end(before),
            Some(before) if before.created > pod.created => return,
            _ => {}
        }
        known.pod_gone = false;
        known.pod = Some(pod);
        drop(inner);
        self.changed(id);
    }

    /// A pod is gone; this is what it was at last.
    pub(super) fn pod_gone(&self, id: ExecutionId, mut pod: PodSeen) {
        let mut inner = self.lock();
        let Some(known) = inner.executions.get_mut(&id) else { return };
        match &known.pod {
            Some(before) if before.uid != pod.uid => return,
            Some(before) => pod.keep_end(before),
            None => {}
        }
        known.pod = Some(pod);
        known.pod_gone = true;
        inner.tidy(id);
        drop(inner);
        self.changed(id);
    }

    pub(super) fn put_service(&self, watch: WatchId, id: ExecutionId, service: ServiceSeen) {
        let mut inner = self.lock();
        inner.shown(watch, &service.uid);
        let known = inner.executions.entry(id).or_default();
        if known.service.as_ref() == Some(&service) {
            return;
        }
        known.service = Some(service);
        drop(inner);
        self.changed(id);
    }

    pub(super) fn service_gone(&self, id: ExecutionId, uid: &str) {
        let mut inner = self.lock();
        let Some(known) = inner.executions.get_mut(&id) else { return };
        if known.service.take_if(|service| service.uid == uid).is_none() {
            return;
        }
        inner.tidy(id);
        drop(inner);
        self.changed(id);
    }

    /// A warning about a Job or, otherwise, about its pod. Warnings outlive what they are about.
    pub(super) fn put_warning(&self, id: ExecutionId, about_job: bool, why: Why) {
        let mut inner = self.lock();
        let Some(known) = inner.executions.get_mut(&id) else { return };
        let warning = if about_job { &mut known.job_warning } else { &mut known.pod_warning };
        if warning.as_ref() == Some(&why) {
            return;
        }
        *warning = Some(why);
        drop(inner);
        self.changed(id);
    }

    fn changed(&self, id: ExecutionId) {
        // Nobody has to listen.
        let _ = self.events.send(EngineEvent::Changed(id));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.get(&id).map(Weak::upgrade) {
            Some(Some(waiter)) => waiter.notify_waiters(),
            Some(None) => drop(waiting.remove(&id)),
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn worst(&self) -> Health {
        let broken = self.watches.values().find(|health| matches!(health, Health::Broken(_)));
        let worst = broken.or_else(|| self.watches.values().find(|health| **health == Health::Listing));
        worst.cloned().unwrap_or(Health::Current)
    }

    fn shown(&mut self, watch: WatchId, uid: &str) {
        if let Some(listed) = self.listed.get_mut(&watch) {
            listed.insert(uid.to_owned());
        }
    }

    /// Forgets an execution of which nothing is left.
    fn tidy(&mut self, id: ExecutionId) {
        if self.executions.get(&id).is_some_and(Known::is_empty) {
            self.executions.remove(&id);
        }
    }

    fn forget(&mut self, uid: String) {
        if self.gone.len() == GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(uid);
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
