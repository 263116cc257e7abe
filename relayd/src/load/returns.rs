//! Those that bring listeners back: deletions and joins at the times that the turnstile says, by a bounded number of threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cause::Failure;
use super::churn::{Errand, Turnstile, What};
use super::joining::{Joining, step_back, threads_for};
use crate::client::Role;

/// Between looks for what is due.
const LOOK: Duration = Duration::from_millis(5);
/// What a relay of ours says to a ticket whose time is over.
const TICKET_INVALID: &str = "HTTP 403 TICKET_INVALID";

/// Starts the threads; they end when the turnstile is closed, or it is to stop.
pub(crate) fn start(
    joining: &Arc<Joining>,
    turnstile: &Arc<Turnstile>,
    listeners: usize,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let spawn = |at: usize| {
        let (joining, turnstile) = (joining.clone(), turnstile.clone());
        let run = move || {
            step_back();
            while turnstile.is_open() && !joining.stop.is_stopped() {
                match turnstile.next(Instant::now()) {
                    Some(errand) => run(&joining, &turnstile, errand),
                    None => std::thread::sleep(LOOK),
                }
            }
        };
        std::thread::Builder::new().name(format!("load-return-{at}")).spawn(run)
    };
    // A deletion and a join for each that comes and goes.
    (0..threads_for(2.0 * turnstile.churn().rate(listeners), listeners)).map(spawn).collect()
}

fn run(joining: &Joining, turnstile: &Turnstile, errand: Errand) {
    let listener = errand.listener;
    match errand.what {
        What::Delete(away) => {
            let resource = joining.made().resources.remove(&(Role::Listener, listener));
            // A server that does not let go finds out by itself.
            let _refused = resource.is_some_and(|resource| resource.delete().is_err());
            turnstile.comes(Instant::now() + away, listener);
        }
        What::Join { ticket } => {
            let began = Instant::now();
            joining.begin(Role::Listener, began.saturating_duration_since(errand.due));
            if let Err(failure) = join(joining, turnstile, listener, ticket) {
                joining.ledger.of(Role::Listener).fail(&failure);
                turnstile.comes_later(Instant::now(), listener, rand::random());
            }
        }
    }
}

fn join(joining: &Joining, turnstile: &Turnstile, listener: usize, ticket: bool) -> Result<(), Failure> {
    let key = (Role::Listener, listener);
    let ticket = joining
        .made()
        .resources
        .get(&key)
        .and_then(|resource| resource.ticket())
        .filter(|_| ticket)
        .map(str::to_owned);
    let has_ticket = ticket.is_some();
    let mut result = joining.post(Role::Listener, listener, Instant::now(), ticket);
    if has_ticket && result.as_ref().is_err_and(|failure| failure.reason == TICKET_INVALID) {
        turnstile.count(|moves| moves.tickets_refused += 1);
        result = joining.post(Role::Listener, listener, Instant::now(), None);
    } else if has_ticket && result.is_ok() {
        turnstile.count(|moves| moves.with_ticket += 1);
    }
    result.inspect(|()| turnstile.count(|moves| moves.joined += 1))
}
