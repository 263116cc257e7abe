//! Places in a session, held by connections: taken by making one, given back by dropping it.

use std::sync::Arc;
use std::time::Instant;

use super::directory::Shared;
use super::error::SessionError;
use super::id::SessionId;
use super::machine::HolderId;
use crate::webrtc::{CloseReason, Record, ResourceId};

/// Who, in which session. The serial tells a session from a later one of the same name; a holder who was dismissed
/// changes nothing by whatever happens to them.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub shared: Arc<Shared>,
    pub session: SessionId,
    pub serial: u64,
    pub holder: HolderId,
}

impl Place {
    /// Whether the place is there still; for a publisher's connection that came about, also whether nobody else has it.
    pub(super) fn check(&self, language: Option<&str>, publishes: bool) -> Result<(), SessionError> {
        self.shared.check_place(self, language, publishes)
    }

    /// The client knows of its connection.
    pub(super) fn known(&self) {
        self.shared.known(self);
    }

    pub(super) fn leave(&self) {
        self.shared.leave(self, Instant::now());
    }

    fn accepted(&self, resource: ResourceId) -> Result<(), CloseReason> {
        self.shared.accepted(self, resource)
    }

    fn connected(&self) {
        self.shared.connected(self, Instant::now());
    }
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

    /// Something was heard of the publisher: for those who speak without a connection.
    pub fn ready(&self) {
        self.place.shared.with_place(&self.place, Instant::now(), |machine, _| {
            machine.handle_ready(self.place.holder.member);
        });
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl Record for PublisherSlot {
    fn accepted(&mut self, resource: ResourceId) -> Result<(), CloseReason> {
        self.place.accepted(resource)
    }

    fn connected(&mut self) {
        self.place.connected();
    }
}

impl Drop for PublisherSlot {
    fn drop(&mut self) {
        self.place.leave();
    }
}

/// The place of one listener of a track.
#[derive(Debug)]
pub struct ListenerSlot {
    place: Place,
}

impl ListenerSlot {
    pub(super) fn new(place: Place) -> Self {
        Self { place }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl Record for ListenerSlot {
    fn accepted(&mut self, resource: ResourceId) -> Result<(), CloseReason> {
        self.place.accepted(resource)
    }

    fn connected(&mut self) {
        self.place.connected();
    }
}

impl Drop for ListenerSlot {
    fn drop(&mut self) {
        self.place.leave();
    }
}
