//! Whoever issues certificates: right ones and wrong ones.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// Years around every test.
pub const NOW: (i32, i32) = (2020, 4000);

/// An authority, with a folder for what it issues.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, in PEM.
    pub own: PathBuf,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub struct Identity {
    /// In PEM.
    pub cert: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

impl Authority {
    /// One that nobody trusts yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", fastrand::u64(..)));
        let key = KeyPair::generate().unwrap();
        let own = folder.path().join("ca.pem");
        fs::write(&own, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { folder, issuer: Issuer::new(params, key), own }
    }

    /// A certificate for this host name or address, valid in these years.
    pub fn issue(&self, host: &str, years: (i32, i32)) -> Identity {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let name = format!("{host}-{}-{}", years.0, fastrand::u64(..));
        let [cert, key_file] = ["pem", "key"].map(|kind| self.folder.path().join(format!("{name}.{kind}")));
        fs::write(&cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        Identity { cert, key: key_file }
    }
}
