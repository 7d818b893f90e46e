//! TLS: whom we trust, who we are, and what is said when a handshake fails. rustls with ring.
//!
//! Constraints: nothing here keeps pillion from starting: a file that is missing or damaged is a reason why there is no
//! connection now, and is read again for the next one. Files are read for a connection only, never in between, and only
//! if they have changed since the last one; so a renewed certificate is in use from the next connection on.
//!
//! What fails is told apart by what a person would do about it, see [`TlsError`].

use crate::config::Tls;
use crate::record::{Clock, ClockQuality, rfc3339};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::Resumption,
};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// No file of certificates is larger, in bytes: the system's own has some 220 KiB.
const MAX_FILE: u64 = 2 * 1024 * 1024;
/// What the system trusts is read again after this time.
const ROOTS_AGE: Duration = Duration::from_secs(3600);
/// Sessions that can be resumed without a whole handshake: one for each of the usual number of servers.
const SESSIONS: usize = 4;

/// Why there is no TLS connection. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of ours is missing, unreadable, or not what it should be.
    #[error("mqtt.{key}: {}: {reason}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system trusts nobody.
    #[error("this system has no certificate authorities ({0}); install ca-certificates, or give mqtt.ca_file")]
    NoRoots(String),
    /// The broker's certificate has expired, or this machine's clock is ahead.
    #[error("the broker's certificate has expired: it ended at {ended}, and the clock here says {now}{clock}")]
    Expired {
        /// When, as text.
        ended: String,
        /// The clock.
        now: String,
        /// What is known of the clock.
        clock: &'static str,
    },
    /// The broker's certificate is not valid yet, or this machine's clock is behind.
    #[error("the broker's certificate is valid from {begins} on, and the clock here says {now}{clock}")]
    NotYet {
        /// When, as text.
        begins: String,
        /// The clock.
        now: String,
        /// What is known of the clock.
        clock: &'static str,
    },
    /// The broker's certificate is for somebody else.
    #[error(
        "the broker's certificate is not for {expected}{presented}; correct mqtt.servers, or give mqtt.server_name"
    )]
    WrongName {
        /// The name that was asked for.
        expected: String,
        /// The names in it.
        presented: String,
    },
    /// The broker's certificate was issued by an authority that is not trusted.
    #[error("the broker's certificate comes from an authority that is not trusted here; give it as mqtt.ca_file")]
    UnknownIssuer,
    /// Something else is wrong with the broker's certificate.
    #[error("the broker's certificate is not accepted: {0}")]
    Certificate(String),
    /// The broker wants to know who we are.
    #[error("the broker asks for a certificate of ours; give mqtt.cert_file and mqtt.key_file")]
    Anonymous,
    /// The broker does not like our certificate.
    #[error("the broker does not accept the certificate of mqtt.cert_file: {0}")]
    Refused(&'static str),
    /// The other side does not speak TLS, at least not here.
    #[error("this port does not speak TLS; MQTT over TLS is on port 8883 as a rule, and mqtt:// is without TLS")]
    NotTls,
    /// The other side hung up.
    #[error("the broker ended the connection within the TLS handshake; does this port speak TLS?")]
    HungUp,
    /// No common version, cipher or protocol.
    #[error("no TLS that both sides speak: {0}")]
    Incompatible(String),
    /// Anything else.
    #[error("TLS failed: {0}")]
    Other(String),
}

impl TlsError {
    /// A short name for it, which metrics count by.
    pub fn kind(&self) -> &'static str {
        match self {
            TlsError::File { .. } => "file",
            TlsError::NoRoots(_) => "no-roots",
            TlsError::Expired { .. } => "expired",
            TlsError::NotYet { .. } => "not-yet-valid",
            TlsError::WrongName { .. } => "wrong-name",
            TlsError::UnknownIssuer => "unknown-issuer",
            TlsError::Certificate(_) => "certificate",
            TlsError::Anonymous => "client-certificate-required",
            TlsError::Refused(_) => "client-certificate-refused",
            TlsError::NotTls => "not-tls",
            TlsError::HungUp => "hung-up",
            TlsError::Incompatible(_) => "incompatible",
            TlsError::Other(_) => "other",
        }
    }

    /// What rustls says, in words that say what to do. `clock` is read for certificates that are out of their time.
    pub(super) fn of(error: &Error, clock: Clock) -> TlsError {
        match error {
            Error::InvalidCertificate(error) => of_certificate(error, clock),
            Error::AlertReceived(alert) => of_alert(*alert),
            Error::InvalidMessage(_) => TlsError::NotTls,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => TlsError::Incompatible(error.to_string()),
            other => TlsError::Other(other.to_string()),
        }
    }

    /// What a failed read or write says, if TLS is the reason.
    pub(super) fn of_io(error: &io::Error, clock: Clock) -> Option<TlsError> {
        let inner = error.get_ref()?.downcast_ref::<Error>()?;
        Some(TlsError::of(inner, clock))
    }
}

fn of_certificate(error: &CertificateError, clock: Clock) -> TlsError {
    let now = clock();
    let date = |time: &UnixTime| rfc3339(time.as_secs().saturating_mul(1000));
    let unknown = || "an unknown time".to_owned();
    let hint = match now.quality {
        ClockQuality::Unsynced => ", which is not set yet; this is tried again until it is",
        ClockQuality::Trusted => "; renew the certificate, or set the clock",
    };
    let now = rfc3339(now.wall_ms);
    match error {
        CertificateError::Expired => TlsError::Expired { ended: unknown(), now, clock: hint },
        CertificateError::ExpiredContext { not_after, .. } => {
            TlsError::Expired { ended: date(not_after), now, clock: hint }
        }
        CertificateError::NotValidYet => TlsError::NotYet { begins: unknown(), now, clock: hint },
        CertificateError::NotValidYetContext { not_before, .. } => {
            TlsError::NotYet { begins: date(not_before), now, clock: hint }
        }
        CertificateError::NotValidForName => {
            TlsError::WrongName { expected: "this host".to_owned(), presented: String::new() }
        }
        CertificateError::NotValidForNameContext { expected, presented } => TlsError::WrongName {
            expected: expected.to_str().into_owned(),
            presented: match presented.as_slice() {
                [] => String::new(),
                names => format!(", but for {}", names.join(", ")),
            },
        },
        CertificateError::UnknownIssuer => TlsError::UnknownIssuer,
        CertificateError::BadSignature => TlsError::Certificate(
            "its signature is not its issuer's; is mqtt.ca_file of an earlier authority?".to_owned(),
        ),
        CertificateError::Revoked => TlsError::Certificate("it was revoked".to_owned()),
        other => TlsError::Certificate(other.to_string()),
    }
}

/// Alerts of RFC 8446 section 6.2: what the broker thinks of us.
fn of_alert(alert: AlertDescription) -> TlsError {
    match alert {
        AlertDescription::CertificateRequired => TlsError::Anonymous,
        AlertDescription::UnknownCA => TlsError::Refused("it does not know who issued it"),
        AlertDescription::CertificateExpired => TlsError::Refused("it has expired, or the broker's clock is wrong"),
        AlertDescription::CertificateRevoked => TlsError::Refused("it was revoked"),
        AlertDescription::AccessDenied => TlsError::Refused("it may not connect"),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::DecryptError => {
            TlsError::Refused("it is malformed, or of a kind that the broker does not take")
        }
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity
        | AlertDescription::NoApplicationProtocol => TlsError::Incompatible(format!("the broker says {alert:?}")),
        AlertDescription::UnrecognisedName => {
            TlsError::Other("the broker does not know the name that it was called by; see mqtt.servers".to_owned())
        }
        other => TlsError::Other(format!("the broker says {other:?}")),
    }
}

/// What rustls is told for a connection, made when the first one needs it.
#[derive(Debug)]
pub struct Setup {
    tls: Tls,
    clock: Clock,
    made: Option<Made>,
}

#[derive(Debug)]
struct Made {
    config: Arc<ClientConfig>,
    stamps: Vec<Option<Stamp>>,
    at: Instant,
}

/// What shows that a file has changed.
type Stamp = (SystemTime, u64);

impl Setup {
    /// For these keys of the configuration.
    pub fn new(tls: Tls, clock: Clock) -> Self {
        Setup { tls, clock, made: None }
    }

    /// The clock that certificates are judged by.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// What to connect with now.
    pub(super) fn config(&mut self) -> Result<Arc<ClientConfig>, TlsError> {
        let stamps = self.stamps();
        let fresh = |made: &&Made| made.stamps == stamps && made.at.elapsed() < ROOTS_AGE;
        if let Some(made) = self.made.as_ref().filter(fresh) {
            return Ok(Arc::clone(&made.config));
        }
        let config = Arc::new(make(&self.tls)?);
        self.made = Some(Made { config: Arc::clone(&config), stamps, at: Instant::now() });
        Ok(config)
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let identity = self.tls.identity.iter().flat_map(|identity| [&identity.cert_file, &identity.key_file]);
        let files = self.tls.ca_file.iter().chain(identity);
        files.map(|file| fs::metadata(file).and_then(|found| Ok((found.modified()?, found.len()))).ok()).collect()
    }
}

fn make(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = match &tls.ca_file {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("ca_file", file)? {
                roots.add(certificate).map_err(|error| wrong("ca_file", file, error.to_string()))?;
            }
            roots
        }
        None => system_roots()?,
    };
    let other = |error: &dyn std::fmt::Display| TlsError::Other(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| other(&error))?;
    let builder = match &tls.server_name {
        None => builder.with_root_certificates(roots),
        Some(name) => {
            let verifier = Named::new(name, roots, provider).map_err(|error| other(&error))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates("cert_file", &identity.cert_file)?;
            let key_file = &identity.key_file;
            let pem = read("key_file", key_file)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
                wrong("key_file", key_file, "it holds no private key in PEM without a passphrase".to_owned())
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                Error::InconsistentKeys(_) => {
                    wrong("key_file", key_file, "it is not the key of the certificate in mqtt.cert_file".to_owned())
                }
                error => wrong("key_file", key_file, error.to_string()),
            })?
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(config)
}

/// Whom the system trusts. Certificates of its that rustls does not understand are left out.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => {
            let why = found.errors.first().map_or_else(|| "none were found".to_owned(), ToString::to_string);
            Err(TlsError::NoRoots(why))
        }
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(key, path, "it holds no certificate in PEM".to_owned())),
        Err(error) => Err(wrong(key, path, format!("it is not PEM: {error}"))),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let reading = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    match reading {
        Err(error) => Err(wrong(key, path, format!("{error}; put it there, readable by this user"))),
        Ok(_) if bytes.len() as u64 > MAX_FILE => Err(wrong(key, path, format!("it is larger than {MAX_FILE} bytes"))),
        Ok(_) => Ok(bytes),
    }
}

fn wrong(key: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::File { key, path: path.to_owned(), reason }
}

/// Verifies as usual, but for the name of `mqtt.server_name` in the place of the address's.
#[derive(Debug)]
struct Named {
    usual: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl Named {
    fn new(name: &str, roots: RootCertStore, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let usual = usual.map_err(|error| Error::General(error.to_string()))?;
        let name = ServerName::try_from(name.to_owned()).map_err(|error| Error::General(error.to_string()))?;
        Ok(Named { usual, name })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.usual.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Timestamp;

    fn at(quality: ClockQuality) -> Timestamp {
        Timestamp { wall_ms: 0, mono_ms: 0, quality }
    }

    #[test]
    fn a_clock_that_is_not_set_yet_is_never_taken_for_a_bad_certificate() {
        let early = Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time: UnixTime::since_unix_epoch(Duration::ZERO),
            not_before: UnixTime::since_unix_epoch(Duration::from_secs(1_577_836_800)),
        });
        let says = |clock: Clock| TlsError::of(&early, clock).to_string();
        let begins = "the broker's certificate is valid from 2020-01-01T00:00:00.000Z on, and the clock here says \
                      1970-01-01T00:00:00.000Z";
        assert_eq!(
            says(|| at(ClockQuality::Unsynced)),
            format!("{begins}, which is not set yet; this is tried again until it is")
        );
        assert_eq!(says(|| at(ClockQuality::Trusted)), format!("{begins}; renew the certificate, or set the clock"));
    }
}
