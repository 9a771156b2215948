//! Handles Ctrl-C and SIGTERM.
//!
//! The first signal stops a command after the current batch, and a command that only reads at once. The second stops
//! any command at once.

use std::{future::pending, io};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// The request to stop a command.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns whether to stop. Commands check it between batches.
    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns a future that completes once the command is to stop.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.0.clone();
        async move {
            if told.wait_for(|&is_asked| is_asked).await.is_err() {
                pending().await
            }
        }
    }
}

/// Receives the signals and passes them on to [`Stop`].
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    told: watch::Sender<bool>,
}

impl Signals {
    /// Starts listening. The signals no longer end the process.
    pub(crate) fn listen() -> io::Result<(Self, Stop)> {
        let (told, stop) = watch::channel(false);
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok((Self { interrupt, terminate, told }, Stop(stop)))
    }

    /// Completes at the second signal. A command that ends `at_once` needs none, so it is not announced.
    pub(crate) async fn second(mut self, at_once: bool) {
        self.next().await;
        if !at_once {
            say!("note: Stopping after the current batch. Press Ctrl-C again to stop now.");
        }
        self.told.send_replace(true);
        self.next().await;
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
