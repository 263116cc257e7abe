//! Opening on a media thread: an answer within a time, and nothing left open for nobody.
//!
//! A thread that has not answered in that time is avoided: it is opened nothing on until it has answered something else.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::TrySendError;
use relay_engine::{ListenerId, OpenError, TrackId};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::command::{Command, Opened, Turn};
use super::seat::Seat;
use super::{Shard, ShardError};

impl Shard {
    pub(super) async fn open<T: Opened>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, OpenError>>) -> Command,
    ) -> Result<T, ShardError> {
        if self.load.is_stalled() {
            return Err(ShardError::Overloaded);
        }
        let (reply, answer) = oneshot::channel();
        self.send_asking(command(reply))?;
        let mut unclaimed = Unclaimed { shard: self, answer };
        match timeout(self.opened_within, &mut unclaimed.answer).await {
            Ok(opened) => Ok(opened.map_err(|_| ShardError::Closed)??),
            Err(_) => {
                self.avoid();
                Err(ShardError::Overloaded)
            }
        }
    }

    /// Has a listener hear another track from now on, on the same legs, and gives it this seat. If the thread has not got
    /// to it by then, it never does.
    ///
    /// # Errors
    /// [`ShardError::Select`] if the engine refuses it, otherwise see [`ShardError`].
    pub(super) async fn select(
        &self,
        listener: ListenerId,
        track: TrackId,
        seat: Option<Seat>,
        until: Instant,
    ) -> Result<(), ShardError> {
        if self.load.is_stalled() {
            return Err(ShardError::Overloaded);
        }
        let (reply, mut answer) = oneshot::channel();
        let turn = Arc::<Turn>::default();
        self.send_asking(Command::Select { listener, track, seat, turn: Arc::clone(&turn), reply })?;
        let selected = match timeout_at(until, &mut answer).await {
            Ok(selected) => selected,
            Err(_) if turn.take() => {
                self.avoid();
                return Err(ShardError::Overloaded);
            }
            // The thread is at it just now.
            Err(_) => answer.await,
        };
        Ok(selected.map_err(|_| ShardError::Closed)??)
    }

    /// A replica on this shard that takes longer is not waited for.
    pub(super) fn replicated_within(&self) -> Duration {
        self.opened_within * 2
    }

    /// The thread has not answered in time: until it does, nothing is opened there.
    pub(crate) fn avoid(&self) {
        if self.load.stall() {
            let number = self.load.number();
            tracing::warn!(
                shard = number,
                "a media thread does not answer: nothing new goes there until it does"
            );
            let avoided = Avoided(self.clone());
            tokio::spawn(async move {
                avoided.0.answered().await;
                if !avoided.0.load.has_ended() {
                    tracing::info!(shard = number, "the media thread answers again");
                }
            });
        }
    }

    /// Whether it has not answered in time, and not since.
    pub fn is_stalled(&self) -> bool {
        self.load.is_stalled()
    }

    /// Comes back when the thread has taken a command, or has ended.
    async fn answered(&self) {
        loop {
            let (reply, answer) = oneshot::channel();
            match self.commands.try_send(Command::Ping { reply }) {
                Err(TrySendError::Full(_)) => sleep(RETRY).await,
                _ if self.load.has_ended() => return,
                // It may have ended meanwhile.
                _ => return drop(answer.await),
            }
        }
    }
}

/// A thread that is avoided while this is there: also if nobody asks it any more, with the runtime of whoever found out.
struct Avoided(Shard);

impl Drop for Avoided {
    fn drop(&mut self) {
        self.0.load.recover();
    }
}

/// An answer on its way; what it brings is closed if whoever asked goes away before it comes.
struct Unclaimed<'a, T: Opened> {
    shard: &'a Shard,
    answer: oneshot::Receiver<Result<T, OpenError>>,
}

impl<T: Opened> Drop for Unclaimed<'_, T> {
    fn drop(&mut self) {
        // From here on the thread sees that nobody waits; what it had answered before is taken here.
        self.answer.close();
        if let Ok(Ok(opened)) = self.answer.try_recv() {
            self.shard.close(opened.peer());
        }
    }
}

/// How soon a thread whose queue was full is asked again whether it answers.
const RETRY: Duration = Duration::from_millis(100);
