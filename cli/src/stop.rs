//! Ctrl-C and SIGTERM: the first stops a command after the current batch, and one that only reads at once; the second
//! stops any command at once.

use std::{future::pending, io};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Whether a command is to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Asked between batches.
    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Ready once it is.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        let mut told = self.0.clone();
        async move {
            if told.wait_for(|&is_asked| is_asked).await.is_err() {
                pending().await
            }
        }
    }
}

/// Who passes signals on.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    told: watch::Sender<bool>,
}

impl Signals {
    /// From here on they end the process no more.
    pub(crate) fn listen() -> io::Result<(Self, Stop)> {
        let (told, stop) = watch::channel(false);
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok((Self { interrupt, terminate, told }, Stop(stop)))
    }

    /// Ready at the second. A command that ends `at_once` needs no second one, and none is announced.
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
