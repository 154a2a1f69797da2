//! The tickets of one connection: which publish waits for which packet id. Ends with the connection, never outlives it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, PublishProperties};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::message::{Message, Qos};
use crate::mqtt;
use crate::{PublishError, Ticket};

/// One connection as publishers see it.
pub(crate) struct Session {
    client: AsyncClient,
    window: Arc<Semaphore>,
    packet_bytes_max: usize,
    table: Mutex<Table>,
}

/// The MQTT client numbers packets in the order it was handed them and says so once each is written. Hence two queues
/// (handed over, not yet numbered) and two tables by packet id.
#[derive(Default)]
struct Table {
    ended: bool,
    handed: VecDeque<Waiting>,
    numbered: Vec<Option<Waiting>>,
    numbered_count: usize,
    subscribes_handed: VecDeque<SubscribeWaiting>,
    subscribes_numbered: Vec<(u16, SubscribeWaiting)>,
}

struct Waiting {
    answer: oneshot::Sender<Result<(), PublishError>>,
    /// Room in the window, given back when this is dropped.
    _room: OwnedSemaphorePermit,
}

/// Gets one code for each filter of a SUBSCRIBE or UNSUBSCRIBE.
type SubscribeWaiting = oneshot::Sender<Vec<u8>>;

/// The connection ended before the request was handed over.
pub(crate) struct Ended;

impl Session {
    pub(crate) fn new(client: AsyncClient, window: u16, packet_bytes_max: usize) -> Self {
        Self { client, window: Arc::new(Semaphore::new(usize::from(window))), packet_bytes_max, table: Mutex::default() }
    }

    /// Waits for room in the window. The permit keeps its place in the order of waiting.
    pub(crate) async fn room(&self) -> Result<OwnedSemaphorePermit, Ended> {
        self.window.clone().acquire_owned().await.map_err(|_| Ended)
    }

    /// Hands a publish over. `Err(None)` says that the connection has ended and nothing was sent.
    pub(crate) fn publish(
        &self,
        message: &Message,
        properties: Option<PublishProperties>,
        room: OwnedSemaphorePermit,
    ) -> Result<Ticket, Option<PublishError>> {
        let bytes = mqtt::publish_bytes(message);
        if bytes > self.packet_bytes_max {
            let max = self.packet_bytes_max;
            return Err(Some(PublishError::TooLarge { bytes, max }));
        }
        let (answer, heard) = oneshot::channel();
        // One lock for both, so that the queue has the order of the client's channel.
        let mut table = self.table();
        if table.ended {
            return Err(None);
        }
        let topic = message.topic.as_str();
        let payload = message.payload.clone();
        let qos = QoS::AtLeastOnce;
        let handed = match properties {
            None => self.client.try_publish(topic, qos, message.retain, payload),
            Some(properties) => self.client.try_publish_with_properties(topic, qos, message.retain, payload, properties),
        };
        // The channel has room for the whole window, so it only refuses when the connection is gone.
        handed.map_err(|_| None)?;
        table.handed.push_back(Waiting { answer, _room: room });
        Ok(Ticket::new(heard))
    }

    /// Hands a SUBSCRIBE over; the receiver gets one code for each filter, or an error when the connection ends first.
    pub(crate) fn subscribe(&self, filters: &[(String, Qos)]) -> Result<oneshot::Receiver<Vec<u8>>, Ended> {
        let (answer, heard) = oneshot::channel();
        let mut table = self.table();
        if table.ended {
            return Err(Ended);
        }
        let filters = filters.iter().map(|(filter, qos)| Filter::new(filter.as_str(), mqtt::qos(*qos)));
        self.client.try_subscribe_many(filters).map_err(|_| Ended)?;
        table.subscribes_handed.push_back(answer);
        Ok(heard)
    }

    /// Hands an UNSUBSCRIBE over; the receiver hears of its answer.
    pub(crate) fn unsubscribe(&self, filter: &str) -> Result<oneshot::Receiver<Vec<u8>>, Ended> {
        let (answer, heard) = oneshot::channel();
        let mut table = self.table();
        if table.ended {
            return Err(Ended);
        }
        self.client.try_unsubscribe(filter).map_err(|_| Ended)?;
        table.subscribes_handed.push_back(answer);
        Ok(heard)
    }

    /// Asks the client to say goodbye.
    pub(crate) fn disconnect(&self) {
        // Without room it goes without a word.
        let _ = self.client.try_disconnect();
    }

    /// The oldest handed publish was written under this packet id.
    pub(crate) fn numbered(&self, pkid: u16) {
        let mut table = self.table();
        let Some(waiting) = table.handed.pop_front() else {
            return;
        };
        let place = usize::from(pkid);
        if table.numbered.len() <= place {
            table.numbered.resize_with(place + 1, || None);
        }
        table.numbered[place] = Some(waiting);
        table.numbered_count += 1;
    }

    /// The peer answered the publish of this packet id.
    pub(crate) fn answered(&self, pkid: u16, answer: Result<(), PublishError>) {
        let mut table = self.table();
        let place = table.numbered.get_mut(usize::from(pkid));
        if let Some(waiting) = place.and_then(Option::take) {
            table.numbered_count -= 1;
            drop(table);
            // Nobody may be listening any more.
            let _ = waiting.answer.send(answer);
        }
    }

    /// True while a written publish has no answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.table().numbered_count > 0
    }

    /// The oldest handed SUBSCRIBE or UNSUBSCRIBE was written under this packet id.
    pub(crate) fn subscribe_numbered(&self, pkid: u16) {
        let mut table = self.table();
        if let Some(waiting) = table.subscribes_handed.pop_front() {
            table.subscribes_numbered.push((pkid, waiting));
        }
    }

    /// The peer answered the SUBSCRIBE or UNSUBSCRIBE of this packet id.
    pub(crate) fn subscribe_answered(&self, pkid: u16, codes: Vec<u8>) {
        let mut table = self.table();
        let place = table.subscribes_numbered.iter().position(|(numbered, _)| *numbered == pkid);
        if let Some(place) = place {
            let (_, waiting) = table.subscribes_numbered.swap_remove(place);
            let _ = waiting.send(codes);
        }
    }

    /// Every ticket without an answer resolves to [`PublishError::Lost`], and no new one is given.
    pub(crate) fn end(&self) {
        self.window.close();
        let mut table = self.table();
        table.ended = true;
        let handed = std::mem::take(&mut table.handed);
        let numbered = std::mem::take(&mut table.numbered);
        table.numbered_count = 0;
        table.subscribes_handed.clear();
        table.subscribes_numbered.clear();
        drop(table);
        for waiting in numbered.into_iter().flatten().chain(handed) {
            let _ = waiting.answer.send(Err(PublishError::Lost));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
