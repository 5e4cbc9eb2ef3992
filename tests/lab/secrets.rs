//! Random UUIDs and keys, and the convention that turns a panel's UUID into each protocol's
//! secret. Written apart from the agent's own, so that the two check each other.
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};

/// A random UUID (version 4), lower case.
pub fn uuid() -> String {
    let mut bytes: [u8; 16] = random_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    uuid_text(bytes)
}

/// The `n`-th of a fixed series of UUIDs: for lists that must be the same at every run.
pub fn nth_uuid(n: u32) -> String {
    // The number stands in the first group, from which Shadowsocks 2022 keys are made, and in the
    // last; Xray ignores the third when it matches VLESS ids.
    let mut bytes = [0, 0, 0, 0, 0x5e, 0xed, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    uuid_text(bytes)
}

/// Shadowsocks 2022: base64 of the first `key_bytes` bytes of the UUID's text, dashes and all.
pub fn shadowsocks_2022_key(uuid: &str, key_bytes: usize) -> String {
    base64(&uuid.as_bytes()[..key_bytes])
}

/// A random key for a Shadowsocks 2022 server or a static client.
pub fn random_key(key_bytes: usize) -> String {
    base64(&random_bytes::<32>()[..key_bytes])
}

/// Not for real secrets: the standard library's hash keys are the only randomness needed here.
fn random_bytes<const N: usize>() -> [u8; N] {
    let random = RandomState::new();
    let mut bytes = [0; N];
    for (place, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&random.hash_one(place).to_ne_bytes()[..chunk.len()]);
    }
    bytes
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("writing into a string");
    }
    text
}

/// Standard alphabet, padded.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = [
            chunk[0],
            *chunk.get(1).unwrap_or(&0),
            *chunk.get(2).unwrap_or(&0),
        ];
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) & 0x3f;
            let padding = place > chunk.len();
            text.push(if padding {
                '='
            } else {
                char::from(ALPHABET[sextet as usize])
            });
        }
    }
    text
}
