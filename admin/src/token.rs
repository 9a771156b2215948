//! What goes to the browser and comes back as it was: signed with HMAC-SHA256, not encrypted.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;
use uuid::Uuid;

/// Fewer can be guessed.
const MIN_KEY_BYTES: usize = 32;

/// What is signed: one purpose's token is not taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Preview,
    Result,
    Banner,
}

#[derive(Clone)]
pub(crate) struct Key(Hmac<Sha256>);

impl Key {
    /// `None` for one that is too short.
    pub(crate) fn new(secret: &[u8]) -> Option<Self> {
        if secret.len() < MIN_KEY_BYTES {
            return None;
        }
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// Of this process: 244 random bits.
    pub(crate) fn random() -> Self {
        let secret: Vec<u8> =
            [Uuid::new_v4(), Uuid::new_v4()].iter().flat_map(|id| id.into_bytes()).collect();
        let mut key = [0; 64];
        key[..secret.len()].copy_from_slice(&secret);
        Self(<Hmac<Sha256> as hmac::digest::KeyInit>::new(&key.into()))
    }

    pub(crate) fn sign(&self, purpose: Purpose, value: &impl Serialize) -> String {
        // Maps with text for keys, and no floats: nothing that JSON has not.
        let body = serde_json::to_vec(value).unwrap_or_default();
        let tag = self.tag(purpose, &body).finalize().into_bytes();
        format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(&body), BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// What was signed, or `None` for anything else.
    pub(crate) fn open<T: DeserializeOwned>(&self, purpose: Purpose, token: &str) -> Option<T> {
        let (body, tag) = token.split_once('.')?;
        let body = BASE64_URL_SAFE_NO_PAD.decode(body).ok()?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).ok()?;
        // In constant time.
        self.tag(purpose, &body).verify_slice(&tag).ok()?;
        serde_json::from_slice(&body).ok()
    }

    fn tag(&self, purpose: Purpose, body: &[u8]) -> Hmac<Sha256> {
        self.0.clone().chain_update([purpose as u8]).chain_update(body)
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
    fn what_was_signed_comes_back() {
        let key = Key::random();
        let token = key.sign(Purpose::Banner, &("ignored", 3));
        assert_eq!(key.open(Purpose::Banner, &token), Some(("ignored".to_owned(), 3)));
    }

    #[test]
    fn another_key_another_purpose_and_every_changed_character_are_refused() {
        let key = Key::random();
        let token = key.sign(Purpose::Banner, &"ignored");
        assert_eq!(Key::random().open::<String>(Purpose::Banner, &token), None);
        assert_eq!(key.open::<String>(Purpose::Preview, &token), None);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(key.open::<String>(Purpose::Banner, &changed), None, "{changed}");
        }
    }

    #[test]
    fn a_key_of_fewer_than_32_bytes_is_refused() {
        assert!(Key::new(&[7; 31]).is_none());
        assert!(Key::new(&[7; 32]).is_some());
    }
}
