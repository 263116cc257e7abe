//! Copies the SRTP keys of a test peer's handshake, so that it can send what no honest stack would.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use relayd::webrtc::srtp::{KeyingMaterial, Role, SrtpProfile};
use str0m::config::{CryptoProvider, DtlsCert, DtlsVersion};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile as DtlsProfile,
};
use str0m::{Rtc, RtcConfig};

/// Where the keys will be once the peer, which is the DTLS client, is connected.
pub(crate) type Keys = Arc<Mutex<Option<KeyingMaterial>>>;

/// Builds an `Rtc` whose keys are copied.
pub(crate) fn build(config: RtcConfig) -> (Rtc, Keys) {
    let provider = CryptoProvider { dtls_provider: &Provider, ..str0m::crypto::from_feature_flags() };
    let keys = Keys::default();
    NEXT.set(Some(keys.clone()));
    (config.set_crypto_provider(Arc::new(provider)).build(Instant::now()), keys)
}

thread_local! {
    static NEXT: RefCell<Option<Keys>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Provider;

impl DtlsProvider for Provider {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        str0m::crypto::from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner =
            str0m::crypto::from_feature_flags().dtls_provider.new_dtls(certificate, now, version, mtu)?;
        Ok(Box::new(Tapped { inner, keys: NEXT.take().unwrap_or_default() }))
    }
}

#[derive(Debug)]
struct Tapped {
    inner: Box<dyn DtlsInstance>,
    keys: Keys,
}

impl DtlsInstance for Tapped {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        let output = self.inner.poll_output(buffer);
        if let DtlsOutput::KeyingMaterial(material, profile) = &output {
            let profile = match *profile {
                DtlsProfile::AEAD_AES_256_GCM => SrtpProfile::AeadAes256Gcm,
                DtlsProfile::AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
                _ => SrtpProfile::Aes128CmSha1_80,
            };
            let keys = KeyingMaterial::from_dtls(profile, material, Role::Client).unwrap();
            *self.keys.lock().unwrap() = Some(keys);
        }
        output
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
