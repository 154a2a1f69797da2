//! What the handle and the link's task have in common.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::LinkState;
use crate::message::Qos;
use crate::session::Session;

/// The state of a link between its handle and its task.
pub(crate) struct Shared {
    pub(crate) current: watch::Sender<Option<Arc<Session>>>,
    pub(crate) state: watch::Sender<LinkState>,
    pub(crate) connected: watch::Sender<bool>,
    /// One SUBSCRIBE at a time, so that the requests always fit the client's channel.
    pub(crate) subscribing: tokio::sync::Mutex<()>,
    /// Remembered filters. Held while a session is published, so that a filter is either in it or added to it.
    filters: Mutex<Vec<(String, Qos)>>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            current: watch::Sender::new(None),
            state: watch::Sender::new(LinkState::Connecting),
            connected: watch::Sender::new(false),
            subscribing: tokio::sync::Mutex::default(),
            filters: Mutex::default(),
        }
    }

    /// Remembers filters and gives the session that they must be added to, if there is one.
    pub(crate) fn remember(&self, added: &[String], qos: Qos) -> Option<Arc<Session>> {
        let mut filters = self.filters();
        for filter in added {
            match filters.iter_mut().find(|(known, _)| known == filter) {
                Some(known) => known.1 = qos,
                None => filters.push((filter.clone(), qos)),
            }
        }
        self.current.borrow().clone()
    }

    /// Forgets a filter; gives the session that has it, if it was known and there is one.
    pub(crate) fn forget(&self, filter: &str) -> Option<Arc<Session>> {
        let mut filters = self.filters();
        let before = filters.len();
        filters.retain(|(known, _)| known != filter);
        if filters.len() == before { None } else { self.current.borrow().clone() }
    }

    /// Makes `session` the current one if `done` is all that is remembered, else gives the rest.
    pub(crate) fn publish_session(
        &self,
        done: &[(String, Qos)],
        refused: &[String],
        session: &Arc<Session>,
    ) -> Option<Vec<(String, Qos)>> {
        let filters = self.filters();
        let rest: Vec<_> = filters.iter().filter(|known| !done.contains(known)).cloned().collect();
        if !rest.is_empty() {
            return Some(rest);
        }
        self.current.send_replace(Some(session.clone()));
        self.state.send_replace(LinkState::Connected { refused_filters: refused.to_vec() });
        self.connected.send_replace(true);
        None
    }

    /// There is no session any more.
    pub(crate) fn withdraw_session(&self) {
        self.connected.send_if_modified(std::mem::take);
        self.state.send_if_modified(|state| {
            let was = state.is_connected();
            if was {
                *state = LinkState::Connecting;
            }
            was
        });
        self.current.send_replace(None);
    }

    fn filters(&self) -> MutexGuard<'_, Vec<(String, Qos)>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears that the link is to be closed: asked for, or the last handle is gone.
#[derive(Clone)]
pub(crate) struct Closing(pub(crate) watch::Receiver<bool>);

impl Closing {
    pub(crate) async fn asked(&mut self) {
        // An error says that the handle is gone.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}
