//! Who a process is. An identity is written as a SPIFFE id in a certificate's only URI name:
//! `spiffe://<site>/controller/<n>`, `spiffe://<site>/agent/<node>`, `spiffe://<site>/user/<name>`.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use specs::id::{ControllerId, NodeId, SiteId, UserId};

const SCHEME: &str = "spiffe://";
/// Longest text that is looked at; SPIFFE's own limit is 2,048.
const URI_LEN_MAX: usize = 256;

/// What kind of process someone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Controller,
    Agent,
    User,
    Anonymous,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::User => "user",
            Self::Anonymous => "anonymous",
        })
    }
}

/// A process or a person as the certificate names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    Controller {
        site: SiteId,
        id: ControllerId,
    },
    Agent {
        site: SiteId,
        node: NodeId,
    },
    User {
        site: SiteId,
        user: UserId,
    },
    /// Someone who showed no certificate.
    Anonymous,
}

/// Text that is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the id of a controller, an agent or a user")]
pub struct ParseIdentityError {
    text: String,
}

impl Identity {
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Controller { .. } => Role::Controller,
            Self::Agent { .. } => Role::Agent,
            Self::User { .. } => Role::User,
            Self::Anonymous => Role::Anonymous,
        }
    }

    /// The trust domain; none for the anonymous.
    #[must_use]
    pub fn site(&self) -> Option<&SiteId> {
        match self {
            Self::Controller { site, .. } | Self::Agent { site, .. } | Self::User { site, .. } => {
                Some(site)
            }
            Self::Anonymous => None,
        }
    }

    /// The SPIFFE id; none for the anonymous.
    #[must_use]
    pub fn uri(&self) -> Option<String> {
        match self {
            Self::Controller { site, id } => Some(format!("{SCHEME}{site}/controller/{}", id.0)),
            Self::Agent { site, node } => Some(format!("{SCHEME}{site}/agent/{node}")),
            Self::User { site, user } => Some(format!("{SCHEME}{site}/user/{user}")),
            Self::Anonymous => None,
        }
    }

    /// Parses a SPIFFE id. One identity has exactly one text, so that two certificates cannot
    /// name the same process differently.
    ///
    /// # Errors
    /// Any other text.
    pub fn parse(uri: &str) -> Result<Self, ParseIdentityError> {
        parse_parts(uri)
            .filter(|identity| identity.uri().as_deref() == Some(uri))
            .ok_or_else(|| ParseIdentityError { text: uri.chars().take(80).collect() })
    }
}

fn parse_parts(uri: &str) -> Option<Identity> {
    if uri.len() > URI_LEN_MAX {
        return None;
    }
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let site = SiteId::new(parts.next()?).ok()?;
    let (role, name) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    match role {
        "controller" => {
            Some(Identity::Controller { site, id: ControllerId(name.parse::<u64>().ok()?) })
        }
        "agent" => Some(Identity::Agent { site, node: NodeId::new(name).ok()? }),
        "user" => Some(Identity::User { site, user: UserId::new(name).ok()? }),
        _ => None,
    }
}

/// The URI name of a site's authority.
#[must_use]
pub fn authority_uri(site: &SiteId) -> String {
    format!("{SCHEME}{site}")
}

/// The site whose authority `uri` names.
#[must_use]
pub fn authority_site(uri: &str) -> Option<SiteId> {
    SiteId::new(uri.strip_prefix(SCHEME)?).ok()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.uri().unwrap_or_else(|| "anonymous".to_string()))
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;
    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        Self::parse(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_its_text() {
        for text in [
            "spiffe://berlin/controller/1",
            "spiffe://berlin/controller/18446744073709551615",
            "spiffe://giga.example/agent/rack-7.n01",
            "spiffe://berlin/user/admin",
        ] {
            assert_eq!(Identity::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn any_other_text_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://berlin",
            "spiffe://berlin/",
            "spiffe://berlin/controller",
            "spiffe://berlin/controller/",
            "spiffe://berlin/controller/1/",
            "spiffe://berlin//controller/1",
            "spiffe://berlin/controller//1",
            "spiffe://berlin/controller/01",
            "spiffe://berlin/controller/+1",
            "spiffe://berlin/controller/-1",
            "spiffe://berlin/controller/c1",
            "spiffe://berlin/controller/18446744073709551616",
            "spiffe://berlin/agent/../controller/2",
            "spiffe://berlin/agent/..",
            "spiffe://berlin/agent/.",
            "spiffe://berlin/agent/a..b",
            "spiffe://berlin/agent/N01",
            "spiffe://berlin/agent/n01?x=1",
            "spiffe://berlin/agent/n01#x",
            "spiffe://berlin/agent/n%30",
            "spiffe://berlin/agent/n01\0",
            "spiffe://berlin/agent/ n01",
            "spiffe://Berlin/agent/n01",
            "spiffe://berlin:443/agent/n01",
            "spiffe://user@berlin/agent/n01",
            "SPIFFE://berlin/agent/n01",
            "https://berlin/agent/n01",
            "spiffe://berlin/gateway/1",
            "spiffe://b\u{e9}rlin/agent/n01",
        ] {
            assert!(Identity::parse(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn an_endless_text_is_refused_without_being_quoted() {
        let text = "spiffe://berlin/agent/".to_string() + &"a".repeat(1 << 16);
        let error = Identity::parse(&text).unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn an_authority_is_named_by_its_site_alone() {
        let site = SiteId::new("berlin").unwrap();
        assert_eq!(authority_site(&authority_uri(&site)), Some(site));
        assert_eq!(authority_site("spiffe://berlin/ca/1"), None);
        assert_eq!(authority_site("spiffe://berlin/"), None);
    }
}
