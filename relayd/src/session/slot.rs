//! Places in a session, held by connections: taken by making one, given back by dropping it.

use std::sync::Arc;
use std::time::Instant;

use super::directory::{Session, Shared};
use super::id::SessionId;
use crate::webrtc::Record;

/// Which track of which session. The serial tells a session from a later one of the same name.
#[derive(Debug)]
pub(super) struct Place {
    pub shared: Arc<Shared>,
    pub session: SessionId,
    pub serial: u64,
    pub index: usize,
}

/// The one place of a track's publisher.
#[derive(Debug)]
pub struct PublisherSlot {
    place: Place,
}

impl PublisherSlot {
    pub(super) fn new(place: Place) -> Self {
        Self { place }
    }
}

impl Record for PublisherSlot {
    fn connected(&mut self) {
        let now = Instant::now();
        self.place.shared.with_place(&self.place, |session, index| session.publisher_connected(now, index));
    }
}

impl Drop for PublisherSlot {
    fn drop(&mut self) {
        let now = Instant::now();
        self.place.shared.with_place(&self.place, |session, index| session.publisher_gone(now, index));
    }
}

/// The place of one listener of a track.
#[derive(Debug)]
pub struct ListenerSlot {
    place: Place,
    connected: bool,
}

impl ListenerSlot {
    pub(super) fn new(place: Place) -> Self {
        Self { place, connected: false }
    }
}

impl Record for ListenerSlot {
    fn connected(&mut self) {
        if !self.connected {
            self.connected = true;
            self.place.shared.with_place(&self.place, Session::listener_connected);
        }
    }
}

impl Drop for ListenerSlot {
    fn drop(&mut self) {
        let (now, connected) = (Instant::now(), self.connected);
        self.place
            .shared
            .with_place(&self.place, |session, index| session.listener_gone(now, index, connected));
    }
}
