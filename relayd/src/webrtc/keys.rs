//! Makes the DTLS instances: those of listeners, and those that str0m drives, whose SRTP keys are copied as they pass.
//!
//! str0m asks its crypto provider for a DTLS instance while an `Rtc` is built; ours is a thin wrapper over
//! `dimpl` that shares a [`Tap`] with the connection it is built for. One validated `dimpl::Config` serves all
//! (building one costs three times a handshake). The wrapper can also start its handshake over: ICE, SDP and the
//! `Rtc` around it stay as they are.
//!
//! That is for a ClientHello forged under the peer's own address, between its first check and its own hello. A client
//! that has not taken in the answer to the forgery, lost or come before its handshake began, is healed by its next
//! retransmission. One that has, finds a signature over somebody else's random and ends its handshake for good:
//! that join ends with [`CloseReason::DtlsTimeout`](super::CloseReason::DtlsTimeout) within `join_timeout`, its
//! places are free again, and the client joins anew.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile,
};
use str0m::{Rtc, RtcConfig};
use zeroize::Zeroize;

use super::srtp::{self, KeyingMaterial};

/// What a connection shares with the DTLS instance inside its `Rtc`.
#[derive(Debug, Default)]
pub(crate) struct Tap(Mutex<State>);

#[derive(Default)]
struct State {
    keys: Option<ExportedKeys>,
    restart: Option<Instant>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys.
        f.debug_struct("State").field("restart", &self.restart).finish_non_exhaustive()
    }
}

/// What DTLS exported for SRTP (RFC 5764 §4.2).
pub(crate) struct ExportedKeys {
    pub(crate) profile: SrtpProfile,
    pub(crate) material: Vec<u8>,
    /// Ours was the client's side of the handshake.
    pub(crate) active: bool,
}

impl ExportedKeys {
    /// What SRTP makes of it, unless that is no profile of ours.
    pub(crate) fn keying_material(&self) -> Option<KeyingMaterial> {
        let profile = match self.profile {
            SrtpProfile::AEAD_AES_256_GCM => srtp::SrtpProfile::AeadAes256Gcm,
            SrtpProfile::AEAD_AES_128_GCM => srtp::SrtpProfile::AeadAes128Gcm,
            SrtpProfile::AES128_CM_SHA1_80 => srtp::SrtpProfile::Aes128CmSha1_80,
            _ => return None,
        };
        let role = if self.active { srtp::Role::Client } else { srtp::Role::Server };
        KeyingMaterial::from_dtls(profile, &self.material, role).ok()
    }
}

impl Drop for ExportedKeys {
    fn drop(&mut self) {
        self.material.as_mut_slice().zeroize();
    }
}

impl Tap {
    /// The keys of the handshake that completed last; the second call finds none.
    pub(crate) fn take_keys(&self) -> Option<ExportedKeys> {
        self.lock().keys.take()
    }

    /// Has the handshake start over when the instance is driven next.
    pub(crate) fn restart(&self, now: Instant) {
        self.lock().restart = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Certificate and crypto of one connection plane.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    provider: Arc<CryptoProvider>,
    certificate: Arc<DtlsCert>,
}

impl Identity {
    /// Generates the one certificate and validates the one DTLS configuration.
    pub(crate) fn generate() -> Result<Self, String> {
        let dtls_provider = provider()?;
        let base = str0m::crypto::from_feature_flags();
        let certificate =
            base.dtls_provider.generate_certificate().ok_or("the certificate could not be generated")?;
        let provider = Arc::new(CryptoProvider { dtls_provider, ..base });
        Ok(Self { provider, certificate: Arc::new(certificate) })
    }

    /// SHA-256 of the certificate.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.provider.sha256_provider.sha256(&self.certificate.certificate)
    }

    /// SHA-256 of anything.
    pub(super) fn sha256(&self, bytes: &[u8]) -> [u8; 32] {
        self.provider.sha256_provider.sha256(bytes)
    }

    /// A DTLS instance that waits for a peer's hello.
    pub(super) fn dtls(&self, now: Instant) -> Result<dimpl::Dtls, String> {
        let config = provider()?.config.clone();
        let mut dtls = dimpl::Dtls::new_12(config, (*self.certificate).clone(), now);
        dtls.set_active(false);
        dtls.handle_timeout(now).map_err(|error| error.to_string())?;
        Ok(dtls)
    }

    /// HMAC-SHA1 of STUN's MESSAGE-INTEGRITY.
    pub(crate) fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        self.provider.sha1_hmac_provider.sha1_hmac(key, payloads)
    }

    /// Builds an `Rtc` whose DTLS instance shares the returned tap.
    pub(crate) fn build(&self, config: RtcConfig, now: Instant) -> (Rtc, Arc<Tap>) {
        let tap = Arc::new(Tap::default());
        NEXT_TAP.set(Some(tap.clone()));
        let rtc = config
            .set_crypto_provider(self.provider.clone())
            .set_dtls_cert((*self.certificate).clone())
            .set_dtls_version(DtlsVersion::Dtls12)
            .build(now);
        NEXT_TAP.set(None);
        (rtc, tap)
    }
}

thread_local! {
    // Handed from `Identity::build` to `Provider::new_dtls`, which str0m calls inside it on the same thread.
    static NEXT_TAP: RefCell<Option<Arc<Tap>>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Provider {
    config: Arc<dimpl::Config>,
}

/// The crypto provider wants a `'static` one; it holds nothing of any connection.
fn provider() -> Result<&'static Provider, String> {
    static PROVIDER: OnceLock<Result<Provider, String>> = OnceLock::new();
    let made = PROVIDER.get_or_init(|| {
        // The address is validated by ICE before DTLS sees a datagram: no cookie, one round trip less.
        let config = dimpl::Config::builder()
            .use_server_cookie(false)
            .with_crypto_provider(str0m_aws_lc_rs::dimpl_crypto_provider())
            .build()
            .map_err(|error| error.to_string())?;
        assert!(config.require_client_certificate(), "an unauthenticated peer must never get keys");
        Ok(Provider { config: Arc::new(config) })
    });
    made.as_ref().map_err(Clone::clone)
}

impl DtlsProvider for Provider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        _version: DtlsVersion,
        _mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let tap = NEXT_TAP.take().unwrap_or_default();
        let dtls = dimpl::Dtls::new_12(self.config.clone(), certificate.clone(), now);
        Ok(Box::new(Tapped { dtls, config: self.config.clone(), certificate: certificate.clone(), tap }))
    }
}

struct Tapped {
    dtls: dimpl::Dtls,
    config: Arc<dimpl::Config>,
    certificate: DtlsCert,
    tap: Arc<Tap>,
}

impl fmt::Debug for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tapped").finish_non_exhaustive()
    }
}

impl Tapped {
    /// The DTLS state machine, a fresh one if a restart was asked for.
    fn dtls(&mut self) -> &mut dimpl::Dtls {
        let restart = self.tap.lock().restart.take();
        if let Some(now) = restart {
            self.dtls = dimpl::Dtls::new_12(self.config.clone(), self.certificate.clone(), now);
            self.dtls.set_active(false);
            if let Err(error) = self.dtls.handle_timeout(now) {
                tracing::debug!(%error, "fresh dtls instance");
            }
        }
        &mut self.dtls
    }
}

impl DtlsInstance for Tapped {
    fn set_active(&mut self, active: bool) {
        self.dtls().set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.dtls().handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        let tap = self.tap.clone();
        let active = self.dtls.is_active();
        let output = self.dtls().poll_output(buffer);
        if let DtlsOutput::KeyingMaterial(material, profile) = &output {
            let keys = ExportedKeys { profile: *profile, material: material.to_vec(), active };
            tap.lock().keys = Some(keys);
        }
        output
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.dtls().handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.dtls().send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.dtls.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.dtls.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.dtls.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.dtls.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.dtls().close()
    }
}
