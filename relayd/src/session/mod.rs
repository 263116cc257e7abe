//! Sessions: who may be in them, who is, and when they are over.
//!
//! [`Directory`] is the one place that knows all sessions: in memory, bounded, with `now` passed in. Each is a pure
//! state machine (`machine.rs`) with a [`Hub`] for its events. Whoever connects holds a slot ([`PublisherSlot`],
//! [`ListenerSlot`]) or a [`Lease`] whose drop gives the place back, so that no count can leak however a connection
//! ends. [`Service`] ties it to the media and connection planes.

mod directory;
mod error;
mod event;
mod hub;
mod id;
mod language;
mod lease;
mod machine;
mod media;
mod refresh;
mod secret;
mod service;
mod slot;
mod status;
mod ticket;
mod view;

#[cfg(test)]
pub(crate) use directory::FeedSender;
pub use directory::{
    Claim, Created, Directory, FEED, Feed, LegView, Limits, RefreshTarget, Report, SessionSpec, Taken,
};
pub use error::SessionError;
pub use event::{Audience, EndReason, Event, LossScope, Numbered, WarningReason};
pub use hub::{Hub, Next, RING, Subscription};
pub use id::SessionId;
pub use language::{Language, LanguageError};
pub use lease::Lease;
pub use media::{MediaJoin, MediaSeat};
pub use refresh::{Cause, Outcome, RefreshRules};
pub use service::{Admitted, JoinRequest, Service, ServiceError};
pub use slot::{ListenerSlot, PublisherSlot};
pub use status::{Lifecycle, Status, Transition};
pub use view::{Counts, SessionView, TrackView};
