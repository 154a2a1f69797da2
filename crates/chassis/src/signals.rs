//! SIGTERM and SIGINT, or whatever a test sends in their place.

use std::io;

use tokio::sync::mpsc;

/// A stream of "please end" words. The first starts the orderly shutdown, the second ends at once.
#[derive(Debug)]
pub struct Signals(mpsc::Receiver<()>);

impl Signals {
    /// Listens for SIGTERM and SIGINT of this process.
    pub fn of_process() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (said, heard) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = said.closed() => return,
                }
                if said.send(()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self(heard))
    }

    /// Signals that come from `heard`: for tests and for processes that are part of another one.
    pub fn from_channel(heard: mpsc::Receiver<()>) -> Self {
        Self(heard)
    }

    /// Signals that never come.
    pub fn none() -> Self {
        Self(mpsc::channel(1).1)
    }

    /// The next signal; never resolves when no more can come.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
