//! Ctrl-C and SIGTERM: the first ends a command after the batch under way, the second at once.

use std::{future::pending, io, thread};

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// How often a command was told to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(watch::Receiver<u32>);

impl Stop {
    /// Listens, on a thread and a runtime of its own: a command may be stuck where its result is read by nobody.
    pub(crate) fn listen() -> io::Result<Self> {
        let (told, stop) = watch::channel(0);
        let listener = Builder::new_current_thread().enable_io().build()?;
        let within = listener.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        drop(within);
        thread::spawn(move || {
            listener.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    told.send_modify(|times| *times += 1);
                    if *told.borrow() == 1 {
                        say!("note: it ends after the batch under way; once more ends it at once");
                    }
                }
            })
        });
        Ok(Self(stop))
    }

    /// Asked between batches.
    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Ready once it is.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        self.times(1)
    }

    /// Ready once it is to end at once.
    pub(crate) fn asked_twice(&self) -> impl Future<Output = ()> + use<> {
        self.times(2)
    }

    fn times(&self, at_least: u32) -> impl Future<Output = ()> + use<> {
        let mut told = self.0.clone();
        async move {
            if told.wait_for(|&times| times >= at_least).await.is_err() {
                pending().await
            }
        }
    }
}
