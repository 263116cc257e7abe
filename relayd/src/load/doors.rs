//! The addresses of a run, and the sessions behind them if they are the run's own.

use ureq::Agent;
use ureq::http::Uri;

use super::{LoadError, LoadOptions, Target};
use crate::client::{Credentials, Endpoint, Resource, Role, parse_address, without_userinfo};

/// Where publishers and listeners go, one address for each session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Doors {
    pub(crate) whip: Vec<Uri>,
    pub(crate) whep: Vec<Uri>,
}

impl Doors {
    /// Where this one goes.
    pub(crate) fn of(&self, role: Role, number: usize) -> &Uri {
        let doors = match role {
            Role::Publisher => &self.whip,
            Role::Listener => &self.whep,
        };
        &doors[number % doors.len()]
    }
}

/// Doors that are open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) doors: Doors,
    pub(crate) created: Created,
}

/// Sessions that were made for this run; deleted when it ends, however it does.
#[derive(Debug, Default)]
pub(crate) struct Created(Vec<Resource>);

impl Drop for Created {
    fn drop(&mut self) {
        for session in self.0.drain(..) {
            let _gone_already = session.delete().is_err();
        }
    }
}

/// Finds the addresses, and makes sessions if the target has none.
pub(crate) fn open(options: &LoadOptions, agent: &Agent) -> Result<Opened, LoadError> {
    let sessions = options.sessions.max(1);
    let doors = match &options.target {
        Target::Addresses { whip, whep } => given(whip.as_deref(), whep, sessions, options.publishers)?,
        Target::Session { relay, session, language } => {
            let relay = relay.trim_end_matches('/');
            let language = language.as_ref().map(|language| format!("/{language}")).unwrap_or_default();
            let door = |kind: &str| format!("{relay}/{kind}/{session}{language}");
            given(Some(&door("whip")), &door("whep"), sessions, options.publishers)?
        }
        Target::Relay { relay } => return create(options, relay.trim_end_matches('/'), agent),
    };
    Ok(Opened { doors, created: Created::default() })
}

fn create(options: &LoadOptions, relay: &str, agent: &Agent) -> Result<Opened, LoadError> {
    by_http(relay)?;
    let uri = format!("{relay}/v1/sessions").parse();
    let uri: Uri = uri.map_err(|_| LoadError::Usage(format!("`{relay}` is not an address")))?;
    let credentials = Credentials { token: options.token.clone(), ..Credentials::default() };
    let endpoint = Endpoint::new(agent, uri, credentials);
    let mut opened = Opened { doors: Doors::default(), created: Created::default() };
    for _ in 0..options.sessions.max(1) {
        let session = endpoint.create(r#"{"sourceLanguage":"en"}"#).map_err(LoadError::Session)?;
        let id = session.name().to_owned();
        opened.created.0.push(session);
        opened.doors.whip.push(parse_address(&format!("{relay}/whip/{id}"), Role::Publisher)?);
        opened.doors.whep.push(parse_address(&format!("{relay}/whep/{id}/en"), Role::Listener)?);
    }
    Ok(opened)
}

/// The doors of addresses that may have a placeholder.
fn given(whip: Option<&str>, whep: &str, sessions: usize, publishers: usize) -> Result<Doors, LoadError> {
    let mut doors = Doors { whip: Vec::new(), whep: expanded(whep, sessions, Role::Listener)? };
    if publishers > 0 {
        let missing = || LoadError::Usage("--whip is missing: where are the publishers to go?".to_owned());
        doors.whip = expanded(whip.ok_or_else(missing)?, sessions, Role::Publisher)?;
    }
    if publishers > doors.whip.len() {
        let text = "several publishers need several places: put {N} into --whip and --whep";
        return Err(LoadError::Usage(text.to_owned()));
    }
    Ok(doors)
}

/// WHIP and WHEP are spoken by HTTP only: other tools of ours take more.
fn by_http(address: &str) -> Result<(), LoadError> {
    let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if matches!(scheme.as_str(), "http" | "https") {
        return Ok(());
    }
    let shown = without_userinfo(address);
    Err(LoadError::Usage(format!("`{shown}` does not begin with http:// or https://")))
}

/// One address for each session if there is `{n}` or `{N}` in it, else the one.
fn expanded(template: &str, sessions: usize, role: Role) -> Result<Vec<Uri>, LoadError> {
    by_http(template)?;
    let template = template.replace("{N}", "{n}");
    let count = if template.contains("{n}") { sessions } else { 1 };
    let address = |number: usize| parse_address(&template.replace("{n}", &number.to_string()), role);
    Ok((0..count).map(address).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::AddressError;

    const WHIP: &str = "http://x/whip/s{n}";
    const WHEP: &str = "http://x/whep/s{N}/en";

    #[test]
    fn a_placeholder_counts_through_the_sessions() {
        let doors = given(Some(WHIP), WHEP, 3, 3).unwrap();
        assert_eq!(
            doors.whip.iter().map(Uri::path).collect::<Vec<_>>(),
            ["/whip/s0", "/whip/s1", "/whip/s2"]
        );
        assert_eq!(doors.of(Role::Listener, 4).path(), "/whep/s1/en", "listeners in turns");
        assert_eq!(doors.of(Role::Publisher, 2).path(), "/whip/s2");
        let one = given(Some("http://x/whip/s"), "http://x/whep/s", 3, 1).unwrap();
        assert_eq!((one.whip.len(), one.whep.len()), (1, 1));
    }

    #[test]
    fn publishers_need_a_place_each_and_none_needs_none() {
        let usage = |result: Result<Doors, LoadError>| matches!(result, Err(LoadError::Usage(_)));
        assert!(usage(given(None, WHEP, 1, 1)));
        assert!(usage(given(Some("http://x/whip/s"), WHEP, 2, 2)));
        assert!(usage(given(Some(WHIP), WHEP, 2, 3)));
        assert!(given(Some("not looked at"), WHEP, 2, 0).unwrap().whip.is_empty());
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        let wrong = |result: Result<Doors, LoadError>| match result {
            Err(LoadError::Address(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong(given(None, "http://x/whip/s", 1, 0)), AddressError::Whip);
        assert_eq!(wrong(given(Some("http://x/whep/s"), WHEP, 1, 1)), AddressError::Whep);
    }

    #[test]
    fn what_is_not_spoken_by_http_is_refused_as_such() {
        let socket = "ws://x/v1/sessions/s/listen/en";
        for address in [socket, "wss://x/whep/s", "127.0.0.1:8080", "x", "ftp://u:p@x/whep/s", "://"] {
            let text = format!("`{}` does not begin with http:// or https://", without_userinfo(address));
            assert_eq!(given(None, address, 1, 0).unwrap_err(), LoadError::Usage(text));
        }
        assert_eq!([by_http("http://x"), by_http("HTTPS://x")], [Ok(()), Ok(())]);
    }
}
