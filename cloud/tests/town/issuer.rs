//! An issuer of tokens, with a key of each kind.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test file uses another part of it")]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use serde_json::{Value, json};

/// Generated for these tests; nothing else has ever trusted it.
const RSA: &[u8] = include_bytes!("rsa.pk8");

pub struct Issuer {
    random: SystemRandom,
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

impl Issuer {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
            rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(),
            random,
        }
    }

    /// The public keys: `ed`, `ec` and `rsa`.
    pub fn keys(&self) -> Value {
        let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public());
        let (x, y) = self.ec.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "alg": "EdDSA", "use": "sig", "x": BASE64.encode(self.ed.public_key())},
            {"kty": "EC", "crv": "P-256", "kid": "ec", "x": BASE64.encode(x), "y": BASE64.encode(y)},
            {"kty": "RSA", "kid": "rsa", "n": BASE64.encode(rsa.n), "e": BASE64.encode(rsa.e)},
            {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        ]})
    }

    /// The RSA modulus, as a public text that an attacker has too.
    pub fn rsa_modulus(&self) -> Vec<u8> {
        RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public()).n
    }

    /// A token of the Ed25519 key.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "EdDSA", "kid": "ed", "typ": "JWT"}), "ed", claims)
    }

    /// A token with any header, signed by one of the keys.
    pub fn sign(&self, header: &Value, key: &str, claims: &Value) -> String {
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = match key {
            "ed" => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            "ec" => self.ec.sign(&self.random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            "rsa" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &self.random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            other => panic!("no key {other}"),
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }
}
