//! Ctrl-C and SIGTERM: the first ends a command after the batch under way, the second at once.

use std::future::pending;

use tokio::{
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    sync::watch,
};

/// Whether a command is to end.
#[derive(Debug, Default)]
pub(crate) struct Stop(watch::Sender<bool>);

impl Stop {
    /// Asked between batches.
    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Ready once it is.
    pub(crate) fn asked(&self) -> impl Future<Output = ()> + use<> {
        let mut asked = self.0.subscribe();
        async move { asked.wait_for(|&is_asked| is_asked).await.map(drop).unwrap_or_default() }
    }

    /// Ready at the second signal.
    pub(crate) async fn second(&self) {
        one().await;
        self.0.send_replace(true);
        say!("note: it ends after the batch under way; once more ends it at once");
        one().await;
    }
}

async fn one() {
    let mut terminate = signal(SignalKind::terminate()).ok();
    let terminated = async {
        match &mut terminate {
            Some(terminate) => terminate.recv().await,
            None => pending().await,
        }
    };
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminated => {}
    }
}
