//! One-time tokens, as an operator carries them from one site to another or to a node:
//! `spw1.…` invites a site, `spe1.…` enrols a node.
//!
//! A token pins the key of the inviter's authority, so that the one who redeems it talks to that
//! site and no other, and it holds a secret that is proved and never sent.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use specs::codec::{Blob, Message};
use specs::id::{SiteId, TokenId};
use specs::unit::Timestamp;
use specs::wire::join::ADDRESSES_MAX;

use crate::base64;

/// Longest text of a token that is looked at, in bytes.
pub const TOKEN_LEN_MAX: usize = 8 * 1024;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Makes a site a peer.
    Invite,
    /// Makes a machine a node.
    Enrol,
}

impl TokenKind {
    /// What the text of such a token begins with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Invite => "spw1.",
            Self::Enrol => "spe1.",
        }
    }
}

/// A token's secret. It has no text: it cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A parsed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub id: TokenId,
    pub secret: Secret,
    /// The site that made it.
    pub site: SiteId,
    /// SHA-256 of the public key of that site's authority.
    pub pin: [u8; 32],
    /// Where that site's controllers listen, `host:port`.
    pub addresses: Vec<String>,
    pub expires: Timestamp,
    /// The only site or node that may redeem it.
    pub bound: Option<String>,
}

/// Why a text is not a token of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is not a token: a token begins with spw1. or spe1.")]
    NotAToken,
    #[error("this token is of a later version")]
    Version,
    #[error("this token enrols a node; to join a site, take one that begins with spw1.")]
    IsEnrol,
    #[error("this token invites a site; to enrol a node, take one that begins with spe1.")]
    IsInvite,
    #[error("the token was cut or mistyped; copy it again, whole")]
    Damaged,
    #[error("the token's content makes no sense; ask for another")]
    Malformed,
}

mod content {
    //! What stands behind the prefix, before the checksum.

    use alloc::string::String;
    use alloc::vec::Vec;

    use specs::codec::Blob;
    use specs::id::{SiteId, TokenId};
    use specs::unit::Timestamp;

    specs::message! {
        pub struct Content {
            1 => id: TokenId,
            2 => secret: Blob,
            3 => site: SiteId,
            4 => pin: Blob,
            5 => addresses: Vec<String>,
            6 => expires: Timestamp,
            7 => bound: Option<String>,
        }
    }
}
use content::Content;

impl Token {
    /// Reads the text of a token; blanks around it do not matter.
    ///
    /// # Errors
    /// What is wrong with the text, in words for the one who typed it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_LEN_MAX {
            return Err(TokenError::NotAToken);
        }
        let (prefix, digits) = text.split_once('.').ok_or(TokenError::NotAToken)?;
        let kind = match prefix {
            "spw1" => TokenKind::Invite,
            "spe1" => TokenKind::Enrol,
            _ if is_later(prefix) => return Err(TokenError::Version),
            _ => return Err(TokenError::NotAToken),
        };
        let bytes = base64::decode_url(digits).ok_or(TokenError::Damaged)?;
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if checksum(kind, content) != u32::from_be_bytes(*sum) {
            return Err(TokenError::Damaged);
        }
        Content::decode(content)
            .ok()
            .and_then(|content| from_content(kind, content))
            .ok_or(TokenError::Malformed)
    }

    /// Reads the text of a token that must be of one kind.
    ///
    /// # Errors
    /// As [`Token::parse`], or that it is of the other kind.
    pub fn parse_as(kind: TokenKind, text: &str) -> Result<Self, TokenError> {
        let token = Self::parse(text)?;
        match (kind, token.kind) {
            (TokenKind::Invite, TokenKind::Enrol) => Err(TokenError::IsEnrol),
            (TokenKind::Enrol, TokenKind::Invite) => Err(TokenError::IsInvite),
            (TokenKind::Invite, TokenKind::Invite) | (TokenKind::Enrol, TokenKind::Enrol) => {
                Ok(token)
            }
        }
    }

    /// The text, with the secret in it: for the operator's eyes alone, never for a log.
    #[must_use]
    pub fn to_text(&self) -> String {
        let content = Content {
            id: self.id,
            secret: Blob(self.secret.0.to_vec()),
            site: self.site.clone(),
            pin: Blob(self.pin.to_vec()),
            addresses: self.addresses.clone(),
            expires: self.expires,
            bound: self.bound.clone(),
        };
        let mut bytes = content.encode();
        bytes.extend(checksum(self.kind, &bytes).to_be_bytes());
        self.kind.prefix().to_string() + &base64::encode_url(&bytes)
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text)
    }
}

fn from_content(kind: TokenKind, content: Content) -> Option<Token> {
    if content.addresses.is_empty() || content.addresses.len() > ADDRESSES_MAX {
        return None;
    }
    Some(Token {
        kind,
        id: content.id,
        secret: Secret(content.secret.0.try_into().ok()?),
        site: content.site,
        pin: content.pin.0.try_into().ok()?,
        addresses: content.addresses,
        expires: content.expires,
        bound: content.bound,
    })
}

fn is_later(prefix: &str) -> bool {
    ["spw", "spe"].iter().any(|letters| {
        prefix
            .strip_prefix(letters)
            .is_some_and(|number| number.parse::<u32>().is_ok_and(|n| n > 1))
    })
}

/// CRC-32 over prefix and content: finds typing errors, protects against nobody.
fn checksum(kind: TokenKind, content: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in kind.prefix().bytes().chain(content.iter().copied()) {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;

    use super::*;

    fn token(kind: TokenKind) -> Token {
        Token {
            kind,
            id: TokenId(0x1234),
            secret: Secret([0xa5; 32]),
            site: SiteId::new("berlin").unwrap(),
            pin: [7; 32],
            addresses: vec!["127.0.0.1:7000".into(), "c2.berlin.example:7000".into()],
            expires: Timestamp(1_800_000_000_000),
            bound: Some("giga".into()),
        }
    }

    #[test]
    fn a_token_reads_back_from_its_text() {
        for kind in [TokenKind::Invite, TokenKind::Enrol] {
            let text = token(kind).to_text();
            assert!(text.starts_with(kind.prefix()));
            assert_eq!(Token::parse(&text), Ok(token(kind)));
            assert_eq!(Token::parse(&format!("  {text}\n")), Ok(token(kind)));
        }
    }

    #[test]
    fn every_cut_and_every_wrong_character_is_found() {
        let text = token(TokenKind::Invite).to_text();
        for end in 5..text.len() {
            assert_eq!(Token::parse(&text[..end]), Err(TokenError::Damaged), "cut at {end}");
        }
        for at in 5..text.len() {
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, other);
            assert_eq!(Token::parse(&wrong), Err(TokenError::Damaged), "mistyped at {at}");
        }
    }

    #[test]
    fn a_token_does_not_change_its_kind_by_its_prefix() {
        let text = token(TokenKind::Invite).to_text().replace("spw1.", "spe1.");
        assert_eq!(Token::parse(&text), Err(TokenError::Damaged));
    }

    #[test]
    fn the_wrong_kind_is_said_to_be_so() {
        let invite = token(TokenKind::Invite).to_text();
        assert_eq!(Token::parse_as(TokenKind::Enrol, &invite), Err(TokenError::IsInvite));
        let enrol = token(TokenKind::Enrol).to_text();
        assert_eq!(Token::parse_as(TokenKind::Invite, &enrol), Err(TokenError::IsEnrol));
    }

    #[test]
    fn other_texts_are_told_apart() {
        assert_eq!(Token::parse(""), Err(TokenError::NotAToken));
        assert_eq!(Token::parse("hello.world"), Err(TokenError::NotAToken));
        assert_eq!(Token::parse("spw2.AAAA"), Err(TokenError::Version));
        assert_eq!(Token::parse("spw1.!!"), Err(TokenError::Damaged));
        assert_eq!(Token::parse(&"spw1.".repeat(10_000)), Err(TokenError::NotAToken));
    }

    #[test]
    fn a_forged_content_with_a_right_checksum_is_malformed() {
        let mut bytes = vec![0x12, 0x01, 0x00];
        bytes.extend(checksum(TokenKind::Invite, &bytes).to_be_bytes());
        let text = "spw1.".to_string() + &base64::encode_url(&bytes);
        assert_eq!(Token::parse(&text), Err(TokenError::Malformed));
    }

    #[test]
    fn debug_output_does_not_hold_the_secret() {
        let text = format!("{:?}", token(TokenKind::Invite));
        assert!(text.contains("(secret)") && !text.contains("165") && !text.contains("a5"));
    }

    #[test]
    fn the_checksum_is_the_common_crc_32() {
        // Over "spw1." + "23456789": computed with zlib.
        assert_eq!(checksum(TokenKind::Invite, b"23456789"), 0x22ac_d962);
    }
}
