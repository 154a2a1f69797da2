//! Outgoing HTTP: how clients are made, whom they trust, and what may be told of an address.
//!
//! TLS is rustls over ring. An own authority stands alone: whoever names one for his private node wants nobody else to answer for it.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::redirect::Policy;
use reqwest::{ClientBuilder, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};

/// Why an address can't be asked by TLS.
#[derive(Debug, thiserror::Error)]
pub enum TrustFault {
    /// The file can't be read.
    #[error("the certificates in {} can't be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system or the format says.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// It is no list of certificates.
    #[error("{} holds no certificate of an authority; it must be PEM: -----BEGIN CERTIFICATE-----", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The machine trusts nobody.
    #[error("this machine has no certificates of authorities; install ca-certificates, or name an own authority")]
    Nobody,
    /// The client can't be made.
    #[error("no HTTP client: {0}")]
    Client(String),
}

/// A client for `url`, by http or https. By TLS it trusts the authorities of the file `ca`, or else those of the machine (or of the file that
/// SSL_CERT_FILE names). It follows no redirect and uses no proxy; timeouts are the caller's to set.
///
/// # Errors
/// [`TrustFault`]. For an address without TLS nothing is read, so nothing fails.
pub fn client(url: &Url, ca: Option<&Path>) -> Result<ClientBuilder, TrustFault> {
    let roots = match (url.scheme(), ca) {
        ("https", Some(ca)) => own(ca)?,
        ("https", None) => machine()?,
        // Nobody is trusted for what is not asked.
        _ => RootCertStore::empty(),
    };
    trusting(roots)
}

/// A client for addresses that are not known yet, by http or https, that trusts the authorities of the machine. Where there are none, only
/// http works. Otherwise as [`client`].
///
/// # Errors
/// [`TrustFault::Client`].
pub fn client_of_any() -> Result<ClientBuilder, TrustFault> {
    trusting(machine().unwrap_or_else(|_| RootCertStore::empty()))
}

fn trusting(roots: RootCertStore) -> Result<ClientBuilder, TrustFault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|fault| TrustFault::Client(fault.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(Policy::none()).no_proxy())
}

fn own(path: &Path) -> Result<RootCertStore, TrustFault> {
    let fault = |source| TrustFault::File { path: path.into(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(fault)? {
        // What can't be an authority is counted below as missing.
        let _ = roots.add(certificate.map_err(fault)?);
    }
    if roots.is_empty() { Err(TrustFault::Empty { path: path.into() }) } else { Ok(roots) }
}

fn machine() -> Result<RootCertStore, TrustFault> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustFault::Nobody) } else { Ok(roots) }
}

/// What may be shown of an address: scheme, host and port. The rest may carry a password or a key.
#[must_use]
pub fn place(url: &Url) -> String {
    let mut text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        let _ = write!(text, ":{port}");
    }
    text
}

/// The same of an address that somebody typed, which may be none.
#[must_use]
pub fn place_of(text: &str) -> String {
    text.parse().map_or_else(|_| "an address that can't be read".to_owned(), |url| place(&url))
}

/// Why a request failed, with all causes, without its address, and with the fix where a certificate is the cause.
#[must_use]
pub fn explain(fault: reqwest::Error) -> String {
    let fault = fault.without_url();
    let mut text = fault.to_string();
    let mut cause = fault.source();
    while let Some(error) = cause {
        // A wrapper says again what it wraps.
        let said = error.to_string();
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        if let Some(fix) = tls_fault(error).and_then(fix) {
            let _ = write!(text, " ({fix})");
            break;
        }
        cause = error.source();
    }
    text
}

/// An `io::Error` does not give what it wraps as its source, and may wrap another one.
fn tls_fault<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(outer) => tls_fault(outer.get_ref()?),
        None => error.downcast_ref(),
    }
}

fn fix(fault: &rustls::Error) -> Option<&'static str> {
    match fault {
        // A signature is bad if the authority has the name of a trusted one, and not its key.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Some("it is signed by no authority that is trusted here; name the one that has signed it, if it is yours")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Some("it is for another name than the address has"),
        rustls::Error::InvalidMessage(_) => Some("does it speak TLS at this port?"),
        _ => None,
    }
}

/// Makes ring the provider of TLS for clients that are not made by [`client`]. Only `main` calls it, and only the first call counts.
pub fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_scheme_host_and_port_are_shown_and_nothing_else() {
        for (text, shown) in [
            ("https://user:secret@node.example.net/v3/secret?key=secret#secret", "https://node.example.net"),
            ("http://127.0.0.1:8545", "http://127.0.0.1:8545"),
            ("https://[::1]:8545/secret", "https://[::1]:8545"),
            ("secret", "an address that can't be read"),
        ] {
            assert_eq!(place_of(text), shown);
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused_and_http_needs_none() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("ca.pem");
        let (https, http): (Url, Url) = ("https://a.example".parse().unwrap(), "http://a.example".parse().unwrap());
        assert!(matches!(client(&https, Some(&path)), Err(TrustFault::File { .. })));
        for text in ["", "Dear Sir", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(client(&https, Some(&path)), Err(TrustFault::Empty { .. })), "{text}");
        }
        assert!(client(&http, Some(&path)).is_ok());
    }
}
