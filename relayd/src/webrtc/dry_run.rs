//! What the connection plane makes of a peer's text, without a socket, a session or a peer.
//!
//! The same code as a join and a PATCH run, up to the point where a connection would be made or changed:
//! fuzzing and the corpus replay hold their properties to it.

use std::net::{Ipv4Addr, SocketAddr};

use super::answer::Answer;
use super::fragment::Fragment;
use super::offer::{self, IceCredentials};
use super::{JoinError, Role};

/// The answer that an offer would get.
///
/// # Errors
/// As a join has them.
pub fn answer(offer: &str, role: Role) -> Result<String, JoinError> {
    let offer = offer::inspect(offer, role)?;
    let ice = IceCredentials::new("dryrun", "0123456789abcdef01234567").expect("well-formed credentials");
    let candidates = [SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))];
    let answer = Answer {
        offer: &offer,
        role,
        ice: &ice,
        fingerprint: [0; 32],
        candidates: &candidates,
        ssrc: 1,
        cname: "dryrun",
        session_id: 2,
    };
    Ok(answer.to_sdp())
}

/// How many candidates a trickle fragment has, and whether it has credentials.
///
/// # Errors
/// What is wrong with it, for the peer's author.
pub fn fragment(text: &str) -> Result<(usize, bool), String> {
    Fragment::parse(text).map(|fragment| (fragment.candidates, fragment.ice.is_some()))
}
