//! `Link` headers of a join's answer (draft-ietf-wish-whep §4.4, RFC 9725 §4.6).

use axum::http::HeaderValue;

use crate::webrtc::ResourceId;

/// An ICE server as configured: `stun:…`, or `turn:…` with user and password.
pub(super) fn ice_server(text: &str) -> Option<HeaderValue> {
    let mut words = text.split(' ');
    let mut link = format!("<{}>; rel=\"ice-server\"", words.next()?);
    if let (Some(user), Some(password)) = (words.next(), words.next()) {
        link.push_str(&format!(
            "; username=\"{user}\"; credential=\"{password}\"; credential-type=\"password\""
        ));
    }
    let mut value = HeaderValue::from_str(&link).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Where a listener asks for server-sent events about its leg.
pub(super) fn server_sent_events(leg: &ResourceId) -> HeaderValue {
    let link = format!(
        "</v1/legs/{leg}/sse>; rel=\"urn:ietf:params:whep:ext:core:server-sent-events\"; \
         events=\"active,inactive,reconnect,viewercount\""
    );
    HeaderValue::from_str(&link).expect("hex digits and the text around them are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ice_servers_are_told_with_their_credentials() {
        assert_eq!(
            ice_server("stun:stun.example:3478").unwrap(),
            "<stun:stun.example:3478>; rel=\"ice-server\""
        );
        let turn = ice_server("turn:turn.example:3478?transport=udp ann x7!").unwrap();
        let expected = "<turn:turn.example:3478?transport=udp>; rel=\"ice-server\"; username=\"ann\"; \
                        credential=\"x7!\"; credential-type=\"password\"";
        assert_eq!(turn, expected);
        assert!(turn.is_sensitive());
    }
}
