//! Tokens that the browser stores and sends back unchanged, sealed with XChaCha20-Poly1305.
//!
//! A token may be part of an address, and so of access logs. Sealing hides notes and names of operators there.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;
use uuid::Uuid;

/// Shorter secrets are refused, because they may be guessed.
const MIN_KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// The purpose of a token. A token of one purpose is not accepted for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Preview,
    Result,
    Banner,
}

#[derive(Clone)]
pub(crate) struct Key(XChaCha20Poly1305);

impl Key {
    /// Derives a key from a secret. Returns `None` if the secret is too short.
    pub(crate) fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < MIN_KEY_BYTES {
            return None;
        }
        // The secret may have any length. The derived key has 32 bytes and is used for nothing else.
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(secret).ok()?;
        let derived = mac.chain_update(b"dead-letters-admin: tokens").finalize().into_bytes();
        Some(Self(XChaCha20Poly1305::new(&derived)))
    }

    /// Returns a random key for this process, with 244 random bits.
    pub(crate) fn random() -> Self {
        let secret = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
        let key = <[u8; 32]>::try_from(secret).unwrap_or_default();
        Self(XChaCha20Poly1305::new(&key.into()))
    }

    pub(crate) fn seal(&self, purpose: Purpose, value: &impl Serialize) -> String {
        // Serializing does not fail, because the maps have text keys and there are no floats.
        let value = serde_json::to_vec(value).unwrap_or_default();
        let random = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&random[..NONCE_BYTES]);
        let payload = Payload { msg: &value, aad: &[purpose as u8] };
        // Encryption fails only for a text of 256 GB.
        let sealed = self.0.encrypt(&nonce.into(), payload).unwrap_or_default();
        BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat())
    }

    /// Returns the sealed value, or `None` if the token was not sealed by this key for this purpose.
    pub(crate) fn open<T: DeserializeOwned>(&self, purpose: Purpose, token: &str) -> Option<T> {
        let token = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = token.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: sealed, aad: &[purpose as u8] };
        let value = self.0.decrypt(&(*nonce).into(), payload).ok()?;
        serde_json::from_slice(&value).ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_is_opened_unchanged() {
        let key = Key::random();
        let token = key.seal(Purpose::Banner, &("ignored", 3));
        assert_eq!(key.open(Purpose::Banner, &token), Some(("ignored".to_owned(), 3)));
    }

    #[test]
    fn a_sealed_token_can_not_be_read() {
        let key = Key::new(&[7; 32]).unwrap();
        let token = key.seal(Purpose::Banner, &"a note of some length");
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(
            !bytes
                .windows(4)
                .any(|part| "a note of some length".as_bytes().windows(4).any(|word| word == part))
        );
        assert_ne!(key.seal(Purpose::Banner, &"a note of some length"), token);
    }

    #[test]
    fn another_key_another_purpose_and_every_changed_character_are_refused() {
        let key = Key::random();
        let token = key.seal(Purpose::Banner, &"ignored");
        assert_eq!(Key::random().open::<String>(Purpose::Banner, &token), None);
        assert_eq!(key.open::<String>(Purpose::Preview, &token), None);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(key.open::<String>(Purpose::Banner, &changed), None, "{changed}");
        }
        for cut in 0..token.len() {
            assert_eq!(key.open::<String>(Purpose::Banner, &token[..cut]), None);
        }
    }

    #[test]
    fn a_key_of_fewer_than_32_bytes_is_refused() {
        assert!(Key::new(&[7; 31]).is_none());
        assert!(Key::new(&[7; 32]).is_some());
        assert!(Key::new(&[7; 200]).is_some());
    }
}
