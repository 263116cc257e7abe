//! The events socket beside a WebRTC connection: it says which positions packets have, what the relay has of a
//! publisher, and when the connection is to be replaced.
//!
//! It comes back by itself when it breaks, and then hears what it missed. A server without it is told from one that
//! cannot be reached now: nobody waits for the first.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::lines::Anchor;
use super::wire::{Said, Wire};
use super::{Common, Ending};
use crate::client::address;
use crate::client::backoff::Backoff;
use ureq::http::Uri;

/// How often we say that we are there.
const BEAT: Duration = Duration::from_secs(5);
/// Silence of the relay after which the socket counts as broken.
const SILENCE: Duration = Duration::from_secs(25);
/// A socket that held so long is worth coming back to at once.
const STEADY: Duration = Duration::from_secs(5);
/// The highest number that JSON says exactly: 2^53 − 1.
const MOST: u64 = (1 << 53) - 1;
const SUBPROTOCOL: &str = "relay.v1+json";

/// What was said, of what a connection needs.
#[derive(Debug)]
pub(super) enum Word {
    /// Which position a packet has.
    Anchor(Anchor),
    /// The relay has everything up to and with this sequence number of this stream.
    Ack {
        ssrc: Option<u64>,
        sequence: u16,
    },
    Order {
        url: String,
        ticket: String,
        deadline: u64,
    },
    Complete {
        /// The number of the event.
        seq: u64,
        position: u64,
        replayed: u64,
        gap_frames: u64,
    },
    Source(String),
    Paused,
    Resumed,
    /// There is no such socket here, or it does not know the connection.
    Unavailable,
}

/// Which connection to follow, as whom.
pub(super) struct Following {
    pub server: Uri,
    pub session: String,
    pub token: Option<String>,
    /// The connection's name.
    pub leg: String,
}

/// Follows until nobody listens any more, or there is nothing to follow.
pub(super) async fn follow(common: Common, following: Following, words: mpsc::Sender<Word>) {
    let path = format!("/v1/sessions/{}/events", following.session);
    let Some(uri) = address::socket_at(&following.server, &path) else { return };
    let mut backoff = Backoff::new(rand::random());
    let (mut seq, mut welcomed) = (None, false);
    while !words.is_closed() {
        match Wire::connect(&common.tls, &uri, SUBPROTOCOL).await {
            Ok(mut wire) => {
                let mut hello = json!({ "leg": following.leg });
                if let Some(token) = &following.token {
                    hello["token"] = json!(token);
                }
                if let Some(seq) = seq {
                    hello["seq"] = json!(seq);
                }
                let began = Instant::now();
                let said = wire.text(json!({ "t": "hello", "d": hello }).to_string()).await;
                if said && !listen(&mut wire, &words, &mut seq, &mut welcomed).await {
                    break;
                }
                if began.elapsed() >= STEADY {
                    backoff.reset();
                }
            }
            Err(error) => {
                if Ending::new(Err(error)).for_good {
                    break;
                }
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
    if !welcomed {
        // Whoever is gone does not wait for it.
        let _gone = words.send(Word::Unavailable).await.is_err();
    }
}

/// Hears one socket out; whether another one is worth it.
async fn listen(
    wire: &mut Wire,
    words: &mpsc::Sender<Word>,
    seq: &mut Option<u64>,
    welcomed: &mut bool,
) -> bool {
    let mut heard = Instant::now();
    let mut beat_at = heard + BEAT;
    loop {
        let now = Instant::now();
        if now >= heard + SILENCE {
            return true;
        }
        if now >= beat_at {
            beat_at = now + BEAT;
            if !wire.text(json!({ "t": "heartbeat", "d": {} }).to_string()).await {
                return true;
            }
        }
        tokio::select! {
            said = wire.next() => match said {
                Said::Text(text) => {
                    heard = Instant::now();
                    let Ok(frame) = serde_json::from_str::<Value>(&text) else { continue };
                    *seq = frame["seq"].as_u64().or(*seq);
                    *welcomed |= frame["t"] == "welcome";
                    if let Some(word) = read(&frame)
                        && words.send(word).await.is_err()
                    {
                        return false;
                    }
                }
                Said::Frame(_) => {}
                // Cut, too slow, or the relay stops or fails: again. The rest is final.
                Said::Closed(code, _) => {
                    return matches!(code, 0 | 1001 | 1006 | 1011 | 4008 | 4009 | 4013 | 4500);
                }
            },
            () = words.closed() => return false,
            () = sleep_until(beat_at.into()) => {}
        }
    }
}

/// What a frame says, of what a connection needs.
fn read(frame: &Value) -> Option<Word> {
    let data = &frame["d"];
    let number = |name: &str| data[name].as_u64().filter(|number| *number <= MOST);
    let text = |name: &str| Some(data[name].as_str()?.to_owned());
    match frame["t"].as_str()? {
        "mediaStarted" => Some(Word::Anchor(Anchor {
            ssrc: u32::try_from(number("ssrc")?).ok()?,
            sequence: number("sequence")? as u16,
            position: number("position")?,
            timestamp: number("timestamp")? as u32,
            media_time: number("mediaTime")?,
        })),
        "ack" => Some(Word::Ack { ssrc: number("ssrc"), sequence: number("sequence")? as u16 }),
        "connectionRefreshRequired" => {
            Some(Word::Order { url: text("url")?, ticket: text("ticket")?, deadline: number("deadline")? })
        }
        "connectionRefreshComplete" => {
            let (position, replayed) = (number("position")?, number("replayed")?);
            let seq = frame["seq"].as_u64()?;
            Some(Word::Complete { seq, position, replayed, gap_frames: number("gapFrames")? })
        }
        "sessionJoined" if data["status"] == "paused" => Some(Word::Paused),
        "sessionJoined" => text("sourceLanguage").map(Word::Source),
        "sessionPaused" => Some(Word::Paused),
        "sessionResumed" => Some(Word::Resumed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_needs_is_read_and_the_rest_passed_over() {
        let anchor = json!({"t": "mediaStarted", "seq": 3, "d": {
            "language": "en", "ssrc": 7, "sequence": 9, "position": 5, "timestamp": 6, "mediaTime": 4800,
        }});
        let expected = Anchor { ssrc: 7, sequence: 9, position: 5, timestamp: 6, media_time: 4800 };
        assert!(matches!(read(&anchor), Some(Word::Anchor(found)) if found == expected));
        let ack = json!({"t": "ack", "d": {"recv": 5, "safe": 5, "ssrc": 7, "sequence": 9}});
        assert!(matches!(read(&ack), Some(Word::Ack { ssrc: Some(7), sequence: 9 })));
        let unplaced = json!({"t": "ack", "d": {"recv": 5, "safe": 5}});
        assert!(read(&unplaced).is_none(), "it is not known which frame that is");
        let order =
            json!({"t": "connectionRefreshRequired", "d": {"url": "/x", "ticket": "t", "deadline": 5}});
        assert!(matches!(read(&order), Some(Word::Order { deadline: 5, .. })));
        for other in
            [json!(null), json!({}), json!({"t": "speakerReady", "d": {}}), json!({"t": "mediaStarted"})]
        {
            assert!(read(&other).is_none(), "{other}");
        }
        let mut beyond = anchor;
        beyond["d"]["position"] = json!(u64::MAX);
        assert!(read(&beyond).is_none(), "no track is that long");
    }
}
