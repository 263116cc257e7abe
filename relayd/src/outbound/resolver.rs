//! Names to addresses that may be connected to. The connection goes to the very address that was checked, so that
//! a name cannot mean one thing when it is looked at and another when it is used.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::is_forbidden_ip;

/// Resolves as the system does, and keeps what may be connected to.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) allow: Arc<[IpNet]>,
    pub(super) system: DefaultResolver,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.system.resolve(uri, config, timeout)?;
        let mut kept = self.empty();
        for address in found.iter().filter(|address| may_connect(&self.allow, address.ip())) {
            kept.push(*address);
        }
        if kept.is_empty() {
            return Err(ureq::Error::Io(io::Error::new(io::ErrorKind::PermissionDenied, FORBIDDEN)));
        }
        Ok(kept)
    }
}

/// Whether an address is public, or exempt.
pub(super) fn may_connect(allow: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !is_forbidden_ip(ip) || allow.iter().any(|range| range.contains(&ip))
}

/// How the error is known again.
pub(super) const FORBIDDEN: &str =
    "it has no public address, and `outbound.allow` does not exempt those it has";
