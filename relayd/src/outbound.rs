//! Requests that the relay makes itself: key sets and webhooks, to addresses that somebody configured.

use ipnet::IpNet;
use thiserror::Error;

use crate::config;

/// Makes requests. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outbound {
    _allow: Vec<IpNet>,
}

impl Outbound {
    /// A client with the exemptions of the configuration.
    pub fn new(config: &config::Outbound) -> Result<Self, OutboundSetupError> {
        let parse = |range: &String| {
            range
                .parse()
                .map_err(|_| OutboundSetupError(format!("`outbound.allow`: {range:?} is no address range")))
        };
        Ok(Self { _allow: config.allow.iter().map(parse).collect::<Result<_, _>>()? })
    }
}

/// Why there is no client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct OutboundSetupError(String);
