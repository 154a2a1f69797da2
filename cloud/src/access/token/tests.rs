//! Tokens that hold, and every way that is known to make one that must not.

use proptest::prelude::*;
use ring::hmac;
use serde_json::json;

use super::super::keys::KeysFault;
use super::issuer::Issuer;
use super::*;

const SECOND: At = 1_000_000_000;
const NOW: At = 1_700_000_000 * SECOND;

fn expected() -> Expected {
    let algorithms = Algorithm::ALL.to_vec();
    Expected { issuer: "https://id.city".into(), audience: "forebay".into(), algorithms, leeway: 30 * SECOND }
}

fn claims() -> Value {
    json!({"iss": "https://id.city", "aud": "forebay", "sub": "ana", "exp": 1_700_000_600, "roles": ["researcher"]})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn set(issuer: &Issuer) -> KeySet {
    KeySet::parse(issuer.keys().to_string().as_bytes()).unwrap()
}

#[test]
fn a11_a_token_of_each_algorithm_holds_until_its_end() {
    let issuer = Issuer::new();
    let keys = set(&issuer);
    for (algorithm, kid) in [("EdDSA", "ed"), ("ES256", "ec"), ("RS256", "rsa")] {
        let token = issuer.sign(&json!({"alg": algorithm, "kid": kid}), kid, &claims());
        assert!(is_token(&token));
        let said = check(&token, &keys, &expected(), NOW).unwrap();
        assert_eq!((said.subject.as_str(), said.until), ("ana", NOW + 630 * SECOND), "{algorithm}");
        assert_eq!(said.all["roles"], json!(["researcher"]));
        assert!(check(&token, &keys, &expected(), NOW + 629 * SECOND).is_ok(), "within the leeway");
        assert_eq!(check(&token, &keys, &expected(), NOW + 630 * SECOND), Err(TokenFault::Expired));
        let only = Expected { algorithms: vec![Algorithm::ES256], ..expected() };
        assert_eq!(check(&token, &keys, &only, NOW).is_ok(), algorithm == "ES256", "the list is closed");
    }
    let listed = issuer.token(&with("aud", json!(["other", "forebay"])));
    assert!(check(&listed, &keys, &expected(), NOW).is_ok());
}

#[test]
fn a11_claims_that_are_not_for_us_or_not_for_now_are_refused() {
    let issuer = Issuer::new();
    let keys = set(&issuer);
    for (name, value, fault) in [
        ("iss", json!("https://id.city/"), TokenFault::Issuer("https://id.city/".into())),
        ("iss", json!(["https://id.city"]), TokenFault::Issuer(String::new())),
        ("aud", json!("forebay2"), TokenFault::Audience),
        ("aud", json!(["a", "b"]), TokenFault::Audience),
        ("aud", Value::Null, TokenFault::Audience),
        ("exp", json!(1_699_999_900), TokenFault::Expired),
        ("exp", json!("1800000000"), TokenFault::Malformed("exp")),
        ("exp", json!(-1e300), TokenFault::Expired),
        ("nbf", json!(1_700_000_031), TokenFault::Early),
        ("iat", json!(1_700_000_031), TokenFault::Early),
        ("sub", json!(""), TokenFault::Subject),
        ("sub", json!("a/b"), TokenFault::Subject),
        ("sub", json!("+"), TokenFault::Subject),
        ("sub", json!("#"), TokenFault::Subject),
        ("sub", json!("*"), TokenFault::Subject),
        ("sub", json!("a\nb"), TokenFault::Subject),
        ("sub", json!("a".repeat(129)), TokenFault::Subject),
        ("sub", json!(7), TokenFault::Subject),
    ] {
        let token = issuer.token(&with(name, value.clone()));
        assert_eq!(check(&token, &keys, &expected(), NOW), Err(fault), "{name} {value}");
    }
    let mut without = claims();
    without.as_object_mut().unwrap().remove("exp");
    assert_eq!(check(&issuer.token(&without), &keys, &expected(), NOW), Err(TokenFault::Expired), "a token must end");
    assert!(check(&issuer.token(&with("nbf", json!(1_700_000_030))), &keys, &expected(), NOW).is_ok(), "within the leeway");
    assert!(check(&issuer.token(&with("exp", json!(1e300))), &keys, &expected(), NOW).is_ok());
}

#[test]
fn a11_no_signature_another_key_and_another_algorithm_are_refused() {
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let keys = set(&issuer);
    let refused = |token: &str| check(token, &keys, &expected(), NOW).unwrap_err();
    let unsigned = |header: Value| format!("{}.{}.", BASE64.encode(header.to_string()), BASE64.encode(claims().to_string()));
    for none in ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "RS512", "PS256", "ES384", "rs256"] {
        let fault = refused(&unsigned(json!({"alg": none, "kid": "ed"})));
        assert_eq!(fault, TokenFault::Algorithm(none.into()));
    }
    assert_eq!(refused(&unsigned(json!({"alg": "EdDSA", "kid": "ed"}))), TokenFault::Signature, "an empty signature");
    // Key confusion: a public key as the secret of an HMAC, under every name of an algorithm.
    for name in ["HS256", "RS256", "ES256", "EdDSA"] {
        let signed = unsigned(json!({"alg": name, "kid": "rsa"}));
        let signed = signed.trim_end_matches('.');
        for secret in [issuer.rsa_modulus(), issuer.keys()["keys"][2].to_string().into_bytes(), b"secret".to_vec()] {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            refused(&format!("{signed}.{}", BASE64.encode(tag)));
        }
    }
    // A key speaks its own algorithm only.
    for (algorithm, kid, key) in [("EdDSA", "rsa", "ed"), ("RS256", "ed", "rsa"), ("ES256", "ed", "ec"), ("RS256", "ec", "rsa")] {
        let fault = refused(&issuer.sign(&json!({"alg": algorithm, "kid": kid}), key, &claims()));
        assert!(matches!(fault, TokenFault::UnknownKey { .. }), "{algorithm} {kid}: {fault}");
    }
    assert!(matches!(refused(&issuer.sign(&json!({"alg": "EdDSA"}), "ed", &claims())), TokenFault::UnknownKey { .. }));
    assert!(matches!(
        refused(&issuer.sign(&json!({"alg": "EdDSA", "kid": "../ed"}), "ed", &claims())),
        TokenFault::UnknownKey { .. }
    ));
    assert!(matches!(
        refused(&issuer.sign(&json!({"alg": "EdDSA", "kid": "shared"}), "ed", &claims())),
        TokenFault::UnknownKey { .. }
    ));
    assert_eq!(refused(&stranger.token(&claims())), TokenFault::Signature);
    // A key in the token itself is nobody's word.
    let own = json!({"alg": "EdDSA", "kid": "ed", "jwk": stranger.keys()["keys"][0], "jku": "http://127.0.0.1/keys"});
    assert_eq!(refused(&stranger.sign(&own, "ed", &claims())), TokenFault::Signature);
    assert_eq!(
        refused(&issuer.sign(&json!({"alg": "EdDSA", "kid": "ed", "crit": ["b64"], "b64": false}), "ed", &claims())),
        TokenFault::Critical
    );
    assert_eq!(
        refused(&issuer.sign(&json!({"alg": "EdDSA", "kid": "ed", "typ": "logout+jwt"}), "ed", &claims())),
        TokenFault::Type("logout+jwt".into())
    );
    assert_eq!(refused(&issuer.token(&with("pad", json!("x".repeat(TOKEN_BYTES_MAX))))), TokenFault::TooLong);
}

#[test]
fn a11_a_key_set_is_read_and_one_with_secrets_is_refused() {
    let keys = |json: Value| KeySet::parse(json.to_string().as_bytes());
    let issuer = Issuer::new();
    let mut private = issuer.keys();
    private["keys"][0]["d"] = json!("c2VjcmV0");
    assert!(matches!(keys(private), Err(KeysFault::Private(kid)) if kid == "ed"));
    let mut other_use = issuer.keys();
    for key in other_use["keys"].as_array_mut().unwrap() {
        key["use"] = json!("enc");
    }
    assert!(matches!(keys(other_use), Err(KeysFault::Empty)));
    let mut mislabelled = json!({"keys": [issuer.keys()["keys"][0]]});
    mislabelled["keys"][0]["alg"] = json!("RS256");
    assert!(matches!(keys(mislabelled), Err(KeysFault::Empty)));
    let small = json!({"keys": [{"kty": "RSA", "kid": "r", "n": BASE64.encode([0xFF; 128]), "e": "AQAB"}]});
    assert!(matches!(keys(small), Err(KeysFault::Empty)), "1024 bits are not enough");
    assert!(matches!(keys(json!({"keys": vec![json!({}); 65]})), Err(KeysFault::TooLarge)));
    assert!(matches!(KeySet::parse(b"no json"), Err(KeysFault::Json(_))));
    assert!(matches!(KeySet::parse(&vec![b' '; 300_000]), Err(KeysFault::TooLarge)));
}

proptest! {
    #[test]
    fn a11_a_changed_token_never_holds(place in 0.0..1.0_f64, byte in any::<u8>()) {
        let issuer = Issuer::new();
        let keys = set(&issuer);
        let token = issuer.token(&claims());
        let mut changed = token.clone().into_bytes();
        let index = (place * changed.len() as f64) as usize;
        changed[index] = byte;
        if let Ok(changed) = String::from_utf8(changed) && changed != token {
            prop_assert!(check(&changed, &keys, &expected(), NOW).is_err());
        }
    }

    #[test]
    fn a11_no_text_makes_the_check_panic(text in ".{0,300}") {
        let keys = set(&Issuer::new());
        prop_assert!(check(&text, &keys, &expected(), NOW).is_err());
        let token = format!("eyJ{text}.{text}.{text}");
        prop_assert!(check(&token, &keys, &expected(), NOW).is_err());
    }
}
