//! JSON Web Tokens as connection tokens are: in the compact form (RFC 7515 section 7.1), signed with
//! HMAC and SHA-256 ("HS256", RFC 7518 section 3.2), and nothing else. What a token says is looked at
//! elsewhere; no claim leaves here before its signature was found right.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;

use super::token::TokenError;

/// The only algorithm.
const HS256: &str = "HS256";

/// A token whose header was read and whose signature was not looked at.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    /// The id of the key that its maker says it is signed with.
    pub(super) kid: Box<str>,
    /// What is signed: header and claims as they came, and the dot between them.
    signed: &'a str,
    claims: &'a str,
    signature: &'a str,
}

/// What matters of a header (RFC 7515 section 4.1); a member that comes twice is refused.
#[derive(Debug, Deserialize)]
struct Header {
    alg: Box<str>,
    kid: Option<Box<str>>,
    /// Extensions that must be understood.
    crit: Option<Vec<Box<str>>>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is none, or one of another kind.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        let parts = token.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, claims) = signed.split_once('.')?;
            Some((signed, header, claims, signature))
        });
        let (signed, header, claims, signature) =
            parts.ok_or_else(|| malformed("it has not three parts"))?;
        let header: Header = object(header)?;
        match &*header.alg {
            HS256 => {}
            "none" => return Err(malformed("it is not signed")),
            _ => return Err(TokenError::Algorithm),
        }
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let kid = header.kid.ok_or(TokenError::UnknownKey)?;
        Ok(Self { kid, signed, claims, signature })
    }

    /// What the token says, if `secret` signed it.
    ///
    /// # Errors
    /// Something else did, or its claims are not such.
    pub(super) fn claims<T: DeserializeOwned>(&self, secret: &[u8]) -> Result<T, TokenError> {
        let signature = decode(self.signature)?;
        // Takes the same time wherever the two differ.
        mac(secret, self.signed)?.verify_slice(&signature).map_err(|_| TokenError::Signature)?;
        object(self.claims)
    }
}

/// Signs a token whose header names its key as `kid`.
///
/// # Errors
/// The claims have no JSON form.
pub(super) fn sign(
    kid: &str,
    claims: &impl Serialize,
    secret: &[u8],
) -> Result<String, TokenError> {
    let header = json!({ "typ": "JWT", "alg": HS256, "kid": kid }).to_string();
    let mut token = BASE64URL_NOPAD.encode(header.as_bytes());
    token.push('.');
    token += &BASE64URL_NOPAD.encode(&serde_json::to_vec(claims).map_err(malformed)?);
    let signature = mac(secret, &token)?.finalize().into_bytes();
    token.push('.');
    token += &BASE64URL_NOPAD.encode(&signature);
    Ok(token)
}

fn mac(secret: &[u8], signed: &str) -> Result<Hmac<Sha256>, TokenError> {
    // A secret of any length will do (RFC 2104).
    let mut mac = Hmac::new_from_slice(secret).map_err(|_| TokenError::Signature)?;
    mac.update(signed.as_bytes());
    Ok(mac)
}

/// A part that is a JSON object: a derived type would be read from an array of its fields as well.
fn object<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let text = decode(part)?;
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(malformed("a part of it is no JSON object"));
    }
    serde_json::from_slice(&text).map_err(malformed)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(part.as_bytes()).map_err(malformed)
}

fn malformed(error: impl ToString) -> TokenError {
    TokenError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn claims(token: &str, secret: &[u8]) -> Result<Value, TokenError> {
        Unverified::parse(token)?.claims(secret)
    }

    /// A token with a right signature around whatever `header` and `claims` are.
    fn token(header: &str, claims: &str, secret: &[u8]) -> String {
        let encode = |part: &str| BASE64URL_NOPAD.encode(part.as_bytes());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = mac(secret, &signed).unwrap().finalize().into_bytes();
        format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
    }

    /// RFC 7515, appendix A.1: its header names no key, so only the signature is looked at.
    #[test]
    fn the_example_of_the_standard_is_signed_right() {
        let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert!(matches!(Unverified::parse(token), Err(TokenError::UnknownKey)));
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (_, claims) = signed.split_once('.').unwrap();
        let example = Unverified { kid: "".into(), signed, claims, signature };
        let secret = decode(secret).unwrap();
        let claims: Value = example.claims(&secret).unwrap();
        let expected =
            json!({ "iss": "joe", "exp": 1300819380, "http://example.com/is_root": true });
        assert_eq!(claims, expected);
        let foreign = example.claims::<Value>(b"another secret");
        assert!(matches!(foreign, Err(TokenError::Signature)));
    }

    #[test]
    fn what_is_signed_here_is_read_here() {
        let said = json!({ "sub": "ann", "list": [1, 2.5, null], "text": "ü\u{0}\"" });
        let made = sign("app_1", &said, b"secret").unwrap();
        assert_eq!(&*Unverified::parse(&made).unwrap().kid, "app_1");
        assert_eq!(claims(&made, b"secret").unwrap(), said);
        let header: Value = object(made.split_once('.').unwrap().0).unwrap();
        assert_eq!(header, json!({ "typ": "JWT", "alg": "HS256", "kid": "app_1" }));
    }

    #[test]
    fn headers_are_read_strictly() {
        let cases = [
            (r#"{"alg":"HS256","kid":"k"}"#, "Ok"),
            (r#"{"kid":"k","alg":"HS256","typ":"JWT","iat":7,"jwk":{}}"#, "Ok"),
            (r#"{"alg":"HS256","kid":"k","crit":[]}"#, "Critical"),
            (r#"{"alg":"HS256","kid":"k","crit":["b64"],"b64":false}"#, "Critical"),
            (r#"{"alg":"HS256","kid":"k","crit":"b64"}"#, "Malformed"),
            (r#"{"alg":"HS256","alg":"HS256","kid":"k"}"#, "Malformed"),
            (r#"{"alg":"HS256","kid":"k","kid":"l"}"#, "Malformed"),
            (r#"{"alg":"none","kid":"k"}"#, "Malformed"),
            (r#"{"alg":"HS512","kid":"k"}"#, "Algorithm"),
            (r#"{"alg":"RS256","kid":"k"}"#, "Algorithm"),
            (r#"{"alg":"hs256","kid":"k"}"#, "Algorithm"),
            (r#"{"alg":["HS256"],"kid":"k"}"#, "Malformed"),
            (r#"{"alg":null,"kid":"k"}"#, "Malformed"),
            (r#"{"kid":"k"}"#, "Malformed"),
            (r#"{"alg":"HS256"}"#, "UnknownKey"),
            (r#"{"alg":"HS256","kid":7}"#, "Malformed"),
            (r#"{"alg":"HS256","kid":"k"} x"#, "Malformed"),
            (r#"["HS256","k",null]"#, "Malformed"),
            (r#""HS256""#, "Malformed"),
            ("", "Malformed"),
        ];
        for (header, expected) in cases {
            let told = match claims(&token(header, "{}", b"s"), b"s") {
                Ok(_) => "Ok".to_owned(),
                Err(error) => format!("{error:?}"),
            };
            assert!(told.starts_with(expected), "{header}: {told}");
        }
    }

    #[test]
    fn no_other_bytes_are_the_same_token() {
        let good = token(r#"{"alg":"HS256","kid":"k"}"#, r#"{"n":1}"#, b"s");
        assert!(claims(&good, b"s").is_ok());
        for at in 0..good.len() {
            for byte in 0..=0x7f {
                let mut other = good.clone().into_bytes();
                let before = std::mem::replace(&mut other[at], byte);
                let other = String::from_utf8(other).unwrap();
                assert!(before == byte || claims(&other, b"s").is_err(), "{other}");
            }
            let (head, rest) = good.split_at(at);
            assert!(claims(head, b"s").is_err(), "{head}");
            // Anything that a lenient reader skips.
            for skipped in ["=", " ", "\n", "\r\n", ".", "\u{0}"] {
                let other = format!("{head}{skipped}{rest}");
                assert!(claims(&other, b"s").is_err(), "{other:?}");
            }
        }
        for more in ["=", "==", "A", ".", ".A", " ", "\n"] {
            assert!(claims(&format!("{good}{more}"), b"s").is_err(), "{more:?}");
        }
        let (signed, _) = good.rsplit_once('.').unwrap();
        assert!(matches!(claims(&format!("{signed}."), b"s"), Err(TokenError::Signature)));
    }

    #[test]
    fn claims_are_read_only_whole() {
        for text in ["{} {}", "{", "", "null", "[]"] {
            let made = token(r#"{"alg":"HS256","kid":"k"}"#, text, b"s");
            assert!(matches!(claims(&made, b"s"), Err(TokenError::Malformed(_))), "{text}");
        }
    }
}
