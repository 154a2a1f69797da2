//! TLS in front of something that does not speak it, with an authority that was made a moment ago.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// Makes ring the provider of TLS in this process, as `main` does it: tests make HTTP clients as they like.
pub fn install_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An authority of its own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, whom nobody trusts.
    ///
    /// # Panics
    /// When no certificate can be made.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    /// Its certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Listens on a free port of 127.0.0.1 with a certificate for `name`, and passes what comes on to `to`.
    ///
    /// # Panics
    /// When no certificate can be made, or no port is free.
    pub async fn front(&self, name: &str, to: SocketAddr) -> Front {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name or an address");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("the certificate and its key");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), to)).abort_handle();
        Front { address, task }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, to: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who does not trust us goes away, and that is what the test is about.
            let Ok(mut outside) = acceptor.accept(stream).await else { return };
            let Ok(mut inside) = TcpStream::connect(to).await else { return };
            let _ = copy_bidirectional(&mut outside, &mut inside).await;
        });
    }
}

/// The TLS side of something. It listens until it is dropped.
pub struct Front {
    /// Where.
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}
