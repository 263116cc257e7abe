//! The one audio line that our clients offer: Opus only, packets as they are on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::rtp::Extension;
use str0m::{Candidate, Rtc, RtcConfig};

use super::address::Role;
use super::peer::PeerError;

/// A server that no longer answers is given up after about ten seconds: an outage that a person sits out is survived, and
/// a script does not wait the half minute that RFC 7675 allows.
const STUN_RTO: Duration = Duration::from_millis(1500);
const STUN_RETRANSMITS: usize = 6;

/// What every client has in common.
pub(crate) fn config() -> RtcConfig {
    let mut config = Rtc::builder()
        .set_rtp_mode(true)
        .clear_codecs()
        .enable_opus(true, false)
        .clear_extension_map()
        .set_extension(1, Extension::AudioLevel)
        .set_extension(3, Extension::RtpMid);
    config.set_max_stun_rto(STUN_RTO);
    config.set_max_stun_retransmits(STUN_RETRANSMITS);
    config
}

/// Makes the offer of a client at `local`.
pub(crate) fn offer(
    rtc: &mut Rtc,
    local: SocketAddr,
    role: Role,
) -> Result<(Mid, SdpOffer, SdpPendingOffer), PeerError> {
    rtc.add_local_candidate(Candidate::host(local, "udp").map_err(|error| PeerError::protocol(&error))?);
    let direction = match role {
        Role::Publisher => Direction::SendOnly,
        Role::Listener => Direction::RecvOnly,
    };
    let mut change = rtc.sdp_api();
    let mid = change.add_media(MediaKind::Audio, direction, None, None, None);
    let (offer, pending) = change.apply().expect("an added line is a change");
    Ok((mid, offer, pending))
}

/// Takes the answer to it; the payload type that Opus has.
pub(crate) fn answer(rtc: &mut Rtc, mid: Mid, pending: SdpPendingOffer, sdp: &str) -> Result<Pt, PeerError> {
    let answer = SdpAnswer::from_sdp_string(sdp).map_err(|error| PeerError::Answer(error.to_string()))?;
    let accepted = rtc.sdp_api().accept_answer(pending, answer);
    accepted.map_err(|error| PeerError::Answer(error.to_string()))?;
    let opus = |pt: &Pt| {
        let mut known = rtc.codec_config().iter();
        known.any(|params| params.pt() == *pt && params.spec().codec == Codec::Opus)
    };
    let accepted = rtc.media(mid).and_then(|media| media.remote_pts().iter().copied().find(opus));
    accepted.ok_or_else(|| PeerError::Answer("the audio line was rejected, or has no Opus".to_owned()))
}
