//! Requests that the relay makes itself: key sets and webhooks, to addresses that somebody configured.
//!
//! What is configured may be a mistake or a trap, so: only public addresses (and the exemptions of the
//! configuration), no redirects, no proxy from the environment, 3 s for everything, 64 KiB of answer, and a bounded
//! number at a time. The client blocks; it runs on the runtime's blocking threads.

mod address;
mod resolver;
pub(crate) mod tls;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::Semaphore;
use ureq::Agent;
use ureq::http::{Response, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, TcpConnector};

pub use address::is_forbidden_ip;

use crate::config;
use resolver::{Checked, FORBIDDEN};
use tls::Tls;

/// For a request as a whole, from the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Of an answer's body.
const MAX_BODY_BYTES: u64 = 64 << 10;
/// Requests at one time, each on a thread; others wait for one of them to end.
const MAX_REQUESTS: usize = 8;

/// Makes requests. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    agent: Agent,
    allow: Arc<[IpNet]>,
    permits: Arc<Semaphore>,
}

impl Outbound {
    /// A client with the exemptions and the authorities of the configuration.
    pub fn new(config: &config::Outbound) -> Result<Self, OutboundSetupError> {
        let parse =
            |range: &String| range.parse::<IpNet>().map_err(|_| OutboundSetupError::Range(range.clone()));
        let allow: Arc<[IpNet]> = config.allow.iter().map(parse).collect::<Result<_, _>>()?;
        let authorities = |why: String| OutboundSetupError::Authorities { path: config.ca_file.clone(), why };
        let pem = match config.ca_file.as_str() {
            "" => Vec::new(),
            path => std::fs::read(path).map_err(|error| authorities(error.to_string()))?,
        };
        let tls = Tls::new(&pem).map_err(authorities)?;
        let settings = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            // A connection that is kept would outlive the check of its address.
            .max_idle_connections(0)
            .user_agent(concat!("relayd/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = ().chain(TcpConnector::default()).chain(tls);
        let resolver = Checked { allow: allow.clone(), system: DefaultResolver::default() };
        let agent = Agent::with_parts(settings, connector, resolver);
        Ok(Self { agent, allow, permits: Arc::new(Semaphore::new(MAX_REQUESTS)) })
    }

    /// Whether a connection to this address may be made.
    pub fn may_connect(&self, ip: IpAddr) -> bool {
        resolver::may_connect(&self.allow, ip)
    }

    /// GETs a document; anything but 200 is an error.
    pub async fn get(&self, url: &str) -> Result<Vec<u8>, OutboundError> {
        let (agent, url) = (self.agent.clone(), url.to_owned());
        let (status, body) = self
            .blocking(move || {
                let response = agent.get(&url).header("accept", "application/json").call();
                answer(response.map_err(OutboundError::from_client)?)
            })
            .await?;
        if status == StatusCode::OK { Ok(body) } else { Err(OutboundError::Status(status.as_u16())) }
    }

    /// POSTs a JSON document with these headers; returns the status of the answer.
    pub async fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> Result<u16, OutboundError> {
        let (agent, url) = (self.agent.clone(), url.to_owned());
        self.blocking(move || {
            let mut request = agent.post(&url).header("content-type", "application/json");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            // What it says besides is of no interest and not waited for.
            Ok(request.send(&body[..]).map_err(OutboundError::from_client)?.status().as_u16())
        })
        .await
    }

    /// Runs a request on a blocking thread. It is bounded by its own timeout, also when nobody waits any more.
    async fn blocking<R: Send + 'static>(
        &self,
        request: impl FnOnce() -> Result<R, OutboundError> + Send + 'static,
    ) -> Result<R, OutboundError> {
        let permit = tokio::time::timeout(TIMEOUT, self.permits.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(OutboundError::Busy) };
        let running = tokio::task::spawn_blocking(move || {
            let result = request();
            drop(permit);
            result
        });
        running.await.unwrap_or_else(|error| Err(OutboundError::Failed(error.to_string())))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("allow", &self.allow).finish_non_exhaustive()
    }
}

fn answer(mut response: Response<ureq::Body>) -> Result<(StatusCode, Vec<u8>), OutboundError> {
    // The library refuses a body that reaches the limit.
    let body = response.body_mut().with_config().limit(MAX_BODY_BYTES + 1).read_to_vec();
    Ok((response.status(), body.map_err(OutboundError::from_client)?))
}

/// Why a request had no answer, or none that helps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// The name leads to addresses that are not public.
    #[error("{FORBIDDEN}")]
    Forbidden,
    /// Too many requests at once.
    #[error("too many requests are under way")]
    Busy,
    /// Not within 3 s.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// More than 64 KiB.
    #[error("the answer is longer than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// Another status than wanted. Redirects are not followed.
    #[error("the answer has status {0}")]
    Status(u16),
    /// Anything else: no such host, refused, a certificate that nobody we trust vouches for.
    #[error("{0}")]
    Failed(String),
}

impl OutboundError {
    fn from_client(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) if error.to_string() == FORBIDDEN => Self::Forbidden,
            ureq::Error::Timeout(_) => Self::Timeout,
            ureq::Error::BodyExceedsLimit(_) => Self::TooLarge,
            ureq::Error::HostNotFound => Self::Failed("no such host".into()),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutboundSetupError {
    /// Not an address range.
    #[error("`outbound.allow`: {0:?} is no address range such as 10.1.2.0/24")]
    Range(String),
    /// The additional authorities cannot be used.
    #[error("`outbound.ca_file` ({path}): {why}")]
    Authorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
