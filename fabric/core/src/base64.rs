//! Base64 in its two alphabets. Decoding is strict: one text for one sequence of bytes.

use alloc::string::String;
use alloc::vec::Vec;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The standard alphabet with padding, as PEM files have it.
#[must_use]
pub fn encode_standard(bytes: &[u8]) -> String {
    let mut text = encode(bytes, STANDARD);
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// The alphabet that needs no quoting in URLs and shells, without padding.
#[must_use]
pub fn encode_url(bytes: &[u8]) -> String {
    encode(bytes, URL)
}

fn encode(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=chunk.len() {
            let index = (group >> (18 - 6 * digit)) & 63;
            text.push(char::from(alphabet[index as usize]));
        }
    }
    text
}

/// The bytes of a text in the URL alphabet without padding; none if it is not such a text.
#[must_use]
pub fn decode_url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        if chunk.len() == 1 {
            return None;
        }
        let mut group = 0u32;
        for (at, digit) in chunk.iter().enumerate() {
            group |= value(*digit)? << (18 - 6 * at);
        }
        let [_, decoded @ ..] = group.to_be_bytes();
        let (whole, rest) = decoded.split_at(chunk.len() - 1);
        if rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_4648_hold() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_standard(bytes.as_bytes()), text);
            let url = encode_url(bytes.as_bytes());
            assert_eq!(url, text.trim_end_matches('='));
            assert_eq!(decode_url(&url).unwrap(), bytes.as_bytes());
        }
    }

    #[test]
    fn all_bytes_read_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..=256 {
            assert_eq!(decode_url(&encode_url(&bytes[..len])).unwrap(), &bytes[..len]);
        }
    }

    #[test]
    fn a_text_that_encode_does_not_write_is_refused() {
        for text in ["A", "Zg==", "Zh", "Zm9", "Zm9v\n", "Zm+v", "Zm/v", "é"] {
            assert_eq!(decode_url(text), None, "{text}");
        }
    }
}
