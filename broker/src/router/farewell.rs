//! How links end: each in its turn, on one thread, and never before the router has come past all that the link had said.
//!
//! A link's packets wait in a buffer that it shares with the router; an event in the router's queue only says "look there", and
//! whatever event comes first takes the whole buffer. A goodbye that is put there while an older event is still queued is
//! therefore found early: before a wake that was sent in between, which then meets a link that is gone and ends the router
//! (pitfall K7). So before any goodbye a ping goes round on a link of this thread's own. The queue is first in, first out
//! for all links together: with the answer, everything that was queued before the ping has been worked off.

use std::sync::{Arc, mpsc};

use futures_util::FutureExt;
use parking_lot::Mutex;
use rumqttd::Notification;
use rumqttd::local::{LinkRx, LinkTx};
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, PingReq};

use super::{Names, RouterFault};

/// Both ends of a link, and the number in its name.
pub(super) struct Link {
    pub(super) tx: LinkTx,
    pub(super) rx: LinkRx,
    pub(super) number: u32,
}

/// Where links go to end. They end with it at the latest.
pub(super) struct Farewells(mpsc::Sender<Link>);

impl Farewells {
    /// Starts the thread, with a link of its own.
    pub(super) fn start(tx: LinkTx, rx: LinkRx, names: Arc<Mutex<Names>>) -> Result<Farewells, RouterFault> {
        // Not limited by itself: there are never more leavers than links, which the router limits.
        let (leave, leavers) = mpsc::channel();
        let mut fence = Fence { tx, rx };
        let bid = move || {
            while let Ok(first) = leavers.recv() {
                let mut leaving: Vec<Link> = std::iter::once(first).chain(leavers.try_iter()).collect();
                if let Err(fault) = fence.pass() {
                    // A dead router has no links; the leavers just go.
                    tracing::debug!(%fault, "the router was gone before the links");
                    continue;
                }
                for leaver in &mut leaving {
                    goodbye(&mut leaver.tx);
                }
                // A new link with an old name comes behind the goodbye in the router's queue.
                names.lock().free.extend(leaving.iter().map(|leaver| leaver.number));
            }
            goodbye(&mut fence.tx);
        };
        std::thread::Builder::new().name("farewell".to_owned()).spawn(bid).map_err(|fault| RouterFault(fault.to_string()))?;
        Ok(Farewells(leave))
    }

    /// Ends a link, soon. Never blocks.
    pub(super) fn bid(&self, link: Link) {
        // Fails only if the thread has panicked; the link then stays until the process ends.
        if self.0.send(link).is_err() {
            tracing::error!("a link can't be ended");
        }
    }
}

struct Fence {
    tx: LinkTx,
    rx: LinkRx,
}

impl Fence {
    /// Returns when the router has worked off all that was in its queue at the call.
    fn pass(&mut self) -> Result<(), RouterFault> {
        send(&mut self.tx, Packet::PingReq(PingReq))?;
        // Nothing else comes through this link, so whatever comes is the answer.
        loop {
            match self.rx.recv().map_err(|fault| RouterFault(fault.to_string()))? {
                Some(Notification::DeviceAck(_)) => return Ok(()),
                Some(Notification::Disconnect(..)) => return Err(RouterFault("it ended the link".into())),
                _ => {}
            }
        }
    }
}

pub(super) fn goodbye(tx: &mut LinkTx) {
    let packet = Packet::Disconnect(Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection }, None);
    if let Err(fault) = send(tx, packet) {
        tracing::debug!(%fault, "the router was gone before the link");
    }
}

/// Blocks while the router's queue is full.
fn send(tx: &mut LinkTx, packet: Packet) -> Result<(), RouterFault> {
    // Ready at once: the link's `send` has no await point.
    match tx.send(packet).now_or_never() {
        Some(Err(fault)) => Err(RouterFault(fault.to_string())),
        _ => Ok(()),
    }
}
