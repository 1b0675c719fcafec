//! The certificate authority of a test cluster: who the API server is, and who its first clients are.
//!
//! Keys are made anew for every cluster and never leave its temporary directory.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate authority.
#[derive(Debug)]
pub struct KubeAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

impl KubeAuthority {
    /// A new authority with a key of its own.
    pub fn new() -> Result<KubeAuthority> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = subject("tidings-test-ca", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(KubeAuthority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The authority's certificate as PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// The identity of the server `name`, valid at `addresses` and by the names a cluster knows its API server by.
    pub fn server(&self, name: &str, addresses: &[IpAddr]) -> Result<Identity> {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", name];
        let mut params = CertificateParams::new(names.map(String::from))?;
        params.distinguished_name = subject(name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // The first address of the service range is the Service `kubernetes` itself.
        let fixed = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))];
        params.subject_alt_names.extend(fixed.iter().chain(addresses).map(|ip| SanType::IpAddress(*ip)));
        self.sign(params)
    }

    /// The identity of a server on 127.0.0.1 that was one until the year 2001.
    pub fn expired_server(&self) -> Result<Identity> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
        self.sign(params)
    }

    /// The identity of a client: the API server reads user and group from the certificate's subject.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = subject(user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A key pair for the tokens of service accounts: the key that signs and the public key that checks, both as PEM.
    pub fn token_keys() -> Result<(String, String)> {
        let pair = KeyPair::generate()?;
        Ok((pair.serialize_pem(), pair.public_key_pem()))
    }

    fn sign(&self, params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        Ok(Identity { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}
