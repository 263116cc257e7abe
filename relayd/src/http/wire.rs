//! A WebSocket that is read while a write waits, with a bound on what waits.
//!
//! Invariant: at most `limit` bytes of messages wait here, frames of media not counted, of which [`FRAMES_AHEAD`] bytes
//! and one more wait at most; and one message in the socket's own buffer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::time::timeout;

use crate::conversation::{Close, CloseCode};
use crate::events::TallyGuard;

/// A socket with its queue.
pub(super) struct Wire<S> {
    socket: S,
    queue: VecDeque<Message>,
    /// Bytes in the queue.
    bytes: usize,
    limit: usize,
    /// Bytes of frames in the queue.
    frame_bytes: usize,
    /// Somebody waits for room for frames.
    crowded: bool,
    /// Something was written and not flushed.
    dirty: bool,
    /// Nothing more will be read.
    ended: bool,
    tally: TallyGuard,
}

impl<S, E> Wire<S>
where
    S: Stream<Item = Result<Message, E>> + Sink<Message, Error = E> + Unpin,
{
    /// A wire on a socket.
    pub(super) fn new(socket: S, limit: usize, tally: TallyGuard) -> Self {
        let queue = VecDeque::new();
        Self {
            socket,
            queue,
            bytes: 0,
            limit,
            frame_bytes: 0,
            crowded: false,
            dirty: false,
            ended: false,
            tally,
        }
    }

    /// Queues a message; `false` if too much waits already.
    pub(super) fn push(&mut self, text: String) -> bool {
        if self.bytes + text.len() > self.limit {
            return false;
        }
        self.bytes += text.len();
        self.queue.push_back(Message::Text(text.into()));
        self.tally.queued(self.queue.len(), self.bytes);
        true
    }

    /// Whether another frame may be pushed; if not, [`Wire::turn`] tells when.
    pub(super) fn has_room(&mut self) -> bool {
        self.crowded = self.frame_bytes >= FRAMES_AHEAD;
        !self.crowded
    }

    /// Queues a frame of media, for which there was room.
    pub(super) fn push_frame(&mut self, frame: Bytes) {
        self.frame_bytes += frame.len();
        self.queue.push_back(Message::Binary(frame));
    }

    /// Writes what can be written until there is room for frames where there was none, or, if it `reads`, something is
    /// read. Dropping the future loses nothing.
    pub(super) async fn turn(&mut self, reads: bool) -> Turn<E> {
        poll_fn(|context| {
            if let Err(error) = self.write(context) {
                self.ended = true;
                return Poll::Ready(Turn::Read(Some(Err(error))));
            }
            if self.crowded && self.has_room() {
                return Poll::Ready(Turn::Room);
            }
            if reads { self.read(context).map(Turn::Read) } else { Poll::Pending }
        })
        .await
    }

    /// Says goodbye and hangs up: within `limit`, whatever the client does. What waits is sent before, unless the
    /// client is too slow for it.
    pub(super) async fn close(mut self, close: Close, limit: Duration) {
        if close.code == CloseCode::TooMuch {
            self.queue.clear();
        }
        let frame = CloseFrame { code: close.code.number(), reason: close.reason.as_ref().into() };
        self.queue.push_back(Message::Close(Some(frame)));
        let goodbye = async {
            let sent = poll_fn(|context| match self.write(context) {
                Err(_) => Poll::Ready(false),
                Ok(()) if self.queue.is_empty() && !self.dirty => Poll::Ready(true),
                Ok(()) => {
                    // Reading goes on: a client that waits for us to read may never read itself.
                    while !self.ended && self.read(context).is_ready() {}
                    Poll::Pending
                }
            });
            if sent.await {
                self.linger().await;
            }
        };
        // Whoever does not answer is hung up on.
        let _answered = timeout(limit, goodbye).await.is_ok();
    }

    /// Reads until the client has closed its side.
    pub(super) async fn linger(&mut self) {
        while !self.ended {
            if !matches!(self.turn(true).await, Turn::Read(Some(Ok(_))) | Turn::Room) {
                self.ended = true;
            }
        }
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, E>>> {
        let read = Pin::new(&mut self.socket).poll_next(context);
        // After an error a WebSocket cannot be read any more.
        self.ended |= matches!(read, Poll::Ready(None | Some(Err(_))));
        read
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), E> {
        while !self.queue.is_empty() {
            match Pin::new(&mut self.socket).poll_ready(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(ready) => ready?,
            }
            let Some(message) = self.queue.pop_front() else { break };
            match &message {
                Message::Text(text) => self.bytes -= text.len(),
                Message::Binary(frame) => self.frame_bytes -= frame.len(),
                _ => {}
            }
            Pin::new(&mut self.socket).start_send(message)?;
            self.dirty = true;
            self.tally.queued(self.queue.len(), self.bytes);
        }
        if self.dirty && Pin::new(&mut self.socket).poll_flush(context)?.is_ready() {
            self.dirty = false;
        }
        Ok(())
    }
}

/// What a turn of a wire brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn<E> {
    /// A message, or the end.
    Read(Option<Result<Message, E>>),
    /// There is room for frames again.
    Room,
}

/// Bytes of frames that may wait for a socket: a few hundred milliseconds of speech.
pub(super) const FRAMES_AHEAD: usize = 4096;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::events::Tally;

    /// A client that takes so many messages and says these.
    struct Client {
        takes: usize,
        taken: Vec<Message>,
        says: VecDeque<Message>,
        hangs_up: bool,
    }

    impl Stream for Client {
        type Item = Result<Message, ()>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            match self.says.pop_front() {
                Some(message) => Poll::Ready(Some(Ok(message))),
                None if self.hangs_up => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    impl Sink<Message> for Client {
        type Error = ();

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
            if self.taken.len() < self.takes { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), ()> {
            self.taken.push(message);
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn client(takes: usize, says: &[&str], hangs_up: bool) -> Client {
        let says = says.iter().map(|text| Message::Text((*text).into())).collect();
        Client { takes, taken: Vec::new(), says, hangs_up }
    }

    #[tokio::test]
    async fn one_that_never_reads_is_heard_and_its_queue_is_bounded() {
        let tally = Tally::default();
        let mut wire = Wire::new(client(0, &["still here"], false), 1000, tally.open());
        let pushed = (0..100).take_while(|_| wire.push("a".repeat(100))).count();
        assert_eq!((pushed, tally.sockets().queued_bytes), (10, 1000));
        assert_eq!(wire.turn(true).await, Turn::Read(Some(Ok(Message::Text("still here".into())))));
        wire.close(Close::new(CloseCode::TooMuch, "slow"), Duration::from_millis(20)).await;
        let sockets = tally.sockets();
        assert_eq!((sockets.queued_bytes, sockets.live), (0, 0));
    }

    #[tokio::test]
    async fn what_waits_is_sent_before_the_close() {
        let tally = Tally::default();
        let mut wire = Wire::new(client(9, &[], true), 1000, tally.open());
        assert!(wire.push("last words".into()));
        assert_eq!(wire.turn(true).await, Turn::Read(None));
        let taken = &wire.socket.taken;
        assert_eq!(taken[..], [Message::Text("last words".into())]);
        assert_eq!((wire.bytes, tally.sockets().queued_messages), (0, 0));
        wire.close(Close::new(CloseCode::SessionGone, "over"), Duration::from_secs(20)).await;
    }

    #[tokio::test]
    async fn frames_wait_for_room_and_no_longer() {
        let mut wire = Wire::new(client(0, &["still here"], false), 1000, Tally::default().open());
        let mut pushed = 0;
        while wire.has_room() {
            wire.push_frame(vec![0; 100].into());
            pushed += 1;
        }
        assert_eq!(pushed, FRAMES_AHEAD.div_ceil(100));
        assert!(wire.push("text has a limit of its own".into()));
        assert_eq!(wire.turn(true).await, Turn::Read(Some(Ok(Message::Text("still here".into())))));
        wire.socket.takes = 2;
        assert_eq!(wire.turn(false).await, Turn::Room);
        assert!(wire.has_room());
        wire.socket.takes = 1000;
        wire.socket.hangs_up = true;
        assert_eq!(wire.turn(true).await, Turn::Read(None));
        assert_eq!((wire.frame_bytes, wire.bytes, wire.socket.taken.len()), (0, 0, pushed + 1));
    }

    #[tokio::test]
    async fn a_client_that_does_not_answer_a_close_is_hung_up_on() {
        let wire = Wire::new(client(9, &["a", "b"], false), 1000, Tally::default().open());
        // Would hang for ever, did the limit not hold.
        wire.close(Close::new(CloseCode::Draining, ""), Duration::from_millis(20)).await;
    }
}
