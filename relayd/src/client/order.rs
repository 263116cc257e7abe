//! An operator's order: connections of a session are to be replaced.

use std::path::PathBuf;

use serde::Deserialize;
use ureq::http::Uri;

use super::address::{self, AddressError};
use super::http::{Credentials, Endpoint, HttpError};
use super::{ClientError, without_userinfo};

/// What is ordered, and where.
#[derive(Clone, Default)]
pub struct RefreshOrder {
    /// The session's address.
    pub session: String,
    /// Bearer token.
    pub token: Option<String>,
    /// Certificate authorities besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Whose connections: the JSON of the request.
    pub body: String,
}

impl std::fmt::Debug for RefreshOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshOrder").field("body", &self.body).finish_non_exhaustive()
    }
}

/// Orders it, and tells how many connections are asked.
///
/// # Errors
///
/// A wrong address, or what the relay says.
pub fn order_refresh(order: RefreshOrder) -> Result<u64, ClientError> {
    #[derive(Deserialize)]
    struct Ordered {
        ordered: u64,
    }

    let uri = address_of(&order.session)?;
    let credentials = Credentials { token: order.token, ..Credentials::default() };
    let wrong = |why: String| ClientError::Authorities(why);
    let pem =
        order.ca_file.map_or(Ok(Vec::new()), std::fs::read).map_err(|error| wrong(error.to_string()))?;
    let agent = super::http::agent(&pem).map_err(wrong)?;
    let text = Endpoint::new(&agent, uri, credentials).order(&order.body)?;
    let ordered: Ordered =
        serde_json::from_str(&text).map_err(|error| HttpError::Broken(error.to_string()))?;
    Ok(ordered.ordered)
}

fn address_of(session: &str) -> Result<Uri, AddressError> {
    let other = || AddressError::Session(without_userinfo(session));
    let uri: Uri = session.parse().map_err(|_| other())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(other());
    }
    let path = uri.path().trim_end_matches('/').to_owned();
    let id = path.strip_prefix("/v1/sessions/").filter(|id| !id.is_empty() && !id.contains('/'));
    let order = id.map(|id| format!("/v1/sessions/{id}/refresh")).ok_or_else(other)?;
    address::resolve(&uri, &order).ok_or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_goes_to_the_session() {
        for given in
            ["http://relay.example:8080/v1/sessions/demo", "http://relay.example:8080/v1/sessions/demo/"]
        {
            let uri = address_of(given).unwrap();
            assert_eq!(uri.to_string(), "http://relay.example:8080/v1/sessions/demo/refresh");
        }
        for bad in [
            "ws://relay.example/v1/sessions/demo",
            "http://relay.example/",
            "http://relay.example/v1/sessions/demo/whep/en",
            "demo",
        ] {
            assert_eq!(address_of(bad), Err(AddressError::Session(bad.to_owned())));
        }
    }
}
