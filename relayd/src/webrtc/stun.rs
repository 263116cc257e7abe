//! STUN of an ICE-lite peer (RFC 8445 §7.3, RFC 8489): binding requests are authenticated, and answered.
//!
//! Pure: nothing is learnt here, and nothing of what a request says is believed before its MESSAGE-INTEGRITY is.

use std::net::SocketAddr;

use str0m::ice::StunMessage;

use super::connection::Binding;
use super::keys::Identity;
use super::offer::IceCredentials;
use super::stack::wall;

/// The longest answer: header, an IPv6 address or an error, MESSAGE-INTEGRITY and FINGERPRINT.
pub(super) const MAX_ANSWER: usize = 128;

/// What an authentic request asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    /// Whether this path works.
    Binding(Binding),
    /// The same, of a peer that takes itself for the controlled one. We are lite, so it is not (RFC 8445 §6.1.1).
    RoleConflict,
}

/// Reads a binding request from `source`; `None` unless it is well-formed, names both sides and has our password's MAC.
pub(super) fn authenticate(
    identity: &Identity,
    ours: &IceCredentials,
    their_ufrag: &str,
    source: SocketAddr,
    datagram: &[u8],
) -> Option<Request> {
    wall(|| {
        let message = StunMessage::parse(datagram).ok().filter(StunMessage::is_binding_request)?;
        let (local, remote) = message.split_username()?;
        let genuine = local == ours.ufrag
            && remote == their_ufrag
            && message.verify(ours.password.as_bytes(), |key, payloads| identity.sha1_hmac(key, payloads));
        let priority = message.prio()?;
        let binding = Binding { source, priority, use_candidate: message.use_candidate() };
        let conflict = message.ice_controlled().is_some();
        genuine.then_some(if conflict { Request::RoleConflict } else { Request::Binding(binding) })
    })
    .ok()
    .flatten()
}

/// Writes the answer to an authentic request: its source address, or 487.
pub(super) fn answer(
    identity: &Identity,
    password: &str,
    request: &Request,
    datagram: &[u8],
    out: &mut [u8; MAX_ANSWER],
) -> Option<usize> {
    wall(|| {
        let id = StunMessage::parse(datagram).ok()?.trans_id();
        let message = match request {
            Request::Binding(binding) => StunMessage::binding_reply(id, binding.source),
            Request::RoleConflict => StunMessage::binding_role_conflict_reply(id),
        };
        let hmac = |key: &[u8], payloads: &[&[u8]]| identity.sha1_hmac(key, payloads);
        message.to_bytes(Some(password.as_bytes()), out, hmac).ok()
    })
    .ok()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use str0m::ice::TransId;

    fn credentials(ufrag: &str) -> IceCredentials {
        IceCredentials::new(ufrag, "0123456789abcdef01234567").unwrap()
    }

    fn request(identity: &Identity, username: &str, password: &str, controlling: bool) -> Vec<u8> {
        let message = StunMessage::binding_request(username, TransId::new(), controlling, 7, 5, true);
        let mut buffer = vec![0; 512];
        let hmac = |key: &[u8], payloads: &[&[u8]]| identity.sha1_hmac(key, payloads);
        let length = message.to_bytes(Some(password.as_bytes()), &mut buffer, hmac).unwrap();
        buffer.truncate(length);
        buffer
    }

    #[test]
    fn a_request_is_answered_with_its_source_under_our_password() {
        let identity = Identity::generate().unwrap();
        let ours = credentials("ours");
        for source in ["192.0.2.1:7", "[2001:db8::1]:7"] {
            let source = source.parse().unwrap();
            let datagram = request(&identity, "ours:theirs", &ours.password, true);
            let asked = authenticate(&identity, &ours, "theirs", source, &datagram).unwrap();
            let Request::Binding(binding) = asked else { panic!("{asked:?}") };
            assert_eq!((binding.source, binding.priority, binding.use_candidate), (source, 5, true));
            let mut out = [0; MAX_ANSWER];
            let length = answer(&identity, &ours.password, &asked, &datagram, &mut out).unwrap();
            let reply = StunMessage::parse(&out[..length]).unwrap();
            assert!(reply.is_successful_binding_response());
            assert_eq!(reply.mapped_address(), Some(source));
            assert_eq!(reply.trans_id(), StunMessage::parse(&datagram).unwrap().trans_id());
            let hmac = |key: &[u8], payloads: &[&[u8]]| identity.sha1_hmac(key, payloads);
            assert!(reply.verify(ours.password.as_bytes(), hmac));
            assert_eq!(out[length - 8..length - 6], [0x80, 0x28], "FINGERPRINT is last");
        }
    }

    #[test]
    fn a_peer_that_would_be_controlled_is_told_of_the_conflict() {
        let identity = Identity::generate().unwrap();
        let ours = credentials("ours");
        let source = "192.0.2.1:7".parse().unwrap();
        let datagram = request(&identity, "ours:theirs", &ours.password, false);
        let asked = authenticate(&identity, &ours, "theirs", source, &datagram).unwrap();
        assert!(matches!(asked, Request::RoleConflict));
        let mut out = [0; MAX_ANSWER];
        let length = answer(&identity, &ours.password, &asked, &datagram, &mut out).unwrap();
        let reply = StunMessage::parse(&out[..length]).unwrap();
        assert_eq!(reply.error_code().map(|(code, _)| code), Some(487));
    }

    #[test]
    fn what_is_forged_or_cut_or_changed_is_nobodys() {
        let identity = Identity::generate().unwrap();
        let ours = credentials("ours");
        let source = "192.0.2.1:7".parse().unwrap();
        let read = |datagram: &[u8]| authenticate(&identity, &ours, "theirs", source, datagram).is_some();
        let good = request(&identity, "ours:theirs", &ours.password, true);
        assert!(read(&good));
        assert!(!read(&request(&identity, "ours:theirs", "another-password-of-24-ch", true)));
        assert!(!read(&request(&identity, "ours:others", &ours.password, true)));
        assert!(!read(&request(&identity, "other:theirs", &ours.password, true)));
        assert!((0..good.len()).all(|length| !read(&good[..length])));
        // All but the FINGERPRINT, which is for telling STUN from other protocols, is under the MAC.
        for at in 0..good.len() - 8 {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert!(!read(&changed), "byte {at}");
        }
    }
}
