//! What a connection that follows a session's events on a token holds, besides its subscription.

use tokio::sync::watch;

use super::slot::Place;

/// A share in the lease of a subject and role; given back by dropping it.
///
/// A token that lasts longer, shown by anybody of the same subject and role in the session, renews it for all.
#[derive(Debug)]
pub struct Lease {
    place: Place,
    lapsed: watch::Receiver<bool>,
}

impl Lease {
    pub(super) fn new(place: Place, lapsed: watch::Receiver<bool>) -> Self {
        Self { place, lapsed }
    }

    /// Resolves when the token has been over for its grace: close the connection. Never if the session ends first.
    pub async fn expired(&self) {
        let mut lapsed = self.lapsed.clone();
        let seen = lapsed.wait_for(|lapsed| *lapsed).await.is_ok();
        if !seen {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.place.leave();
    }
}
