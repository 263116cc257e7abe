//! Sessions: who may be in them, who is, and when they are over.
//!
//! [`Directory`] is the one place that knows all sessions: in memory, bounded, with `now` passed in. Whoever
//! connects holds a slot ([`PublisherSlot`], [`ListenerSlot`]) whose drop gives the place back, so that no count
//! can leak however a connection ends. [`Service`] ties it to the media and connection planes.

mod directory;
mod event;
mod hub;
mod id;
mod language;
mod service;
mod slot;
mod status;

pub use directory::{Counts, Directory, Limits, SessionError, SessionSpec, SessionView, TrackView};
pub use event::{Audience, EndReason, Event, Numbered, WarningReason};
pub use hub::{Hub, Next, RING, Subscription};
pub use id::SessionId;
pub use language::{Language, LanguageError};
pub use service::{Service, ServiceError};
pub use slot::{ListenerSlot, PublisherSlot};
pub use status::{Lifecycle, Status, Transition};
