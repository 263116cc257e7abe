//! A flag to end a running client from another thread.

use std::sync::Arc;

use tokio::sync::watch;

/// Ends the clients it was given to; clones are the same flag.
#[derive(Debug, Clone)]
pub struct Stop {
    flag: Arc<watch::Sender<bool>>,
}

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self { flag: Arc::new(watch::Sender::new(false)) }
    }

    /// Ends the clients: they close their connection, finish their file and return.
    pub fn stop(&self) {
        self.flag.send_replace(true);
    }

    /// True once stopped.
    pub fn is_stopped(&self) -> bool {
        *self.flag.borrow()
    }

    pub(super) async fn stopped(&self) {
        let mut flag = self.flag.subscribe();
        // The sender lives in `self`: the wait ends only by the flag.
        flag.wait_for(|stopped| *stopped).await.expect("this handle holds the sender");
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}
