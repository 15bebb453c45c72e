//! Who may ask what: a table from a method's plane and two roles, and everything that it does not
//! name is forbidden.

use alloc::format;

use specs::fault::{Fault, FaultCode};
use specs::id::SiteId;
use specs::wire::method::{Method, Plane};

use crate::identity::{Identity, Role};

/// Whether `caller` may call `method` at a process of `own_site` whose role is `own`.
///
/// # Errors
/// `forbidden`, naming the caller and the method.
pub fn allowed(
    method: Method,
    caller: &Identity,
    own_site: &SiteId,
    own: Role,
) -> Result<(), Fault> {
    let same_site = caller.site() == Some(own_site);
    let granted = own == serving_role(method.plane())
        && match (method.plane(), caller.role()) {
            (Plane::Client, Role::User | Role::Controller)
            | (Plane::Agent, Role::Agent)
            | (Plane::Node | Plane::Raft, Role::Controller) => same_site,
            (Plane::Peer, Role::Controller) => !same_site,
            (Plane::Token, Role::Controller | Role::Agent | Role::User | Role::Anonymous) => true,
            (Plane::Client, Role::Agent | Role::Anonymous)
            | (Plane::Agent, Role::Controller | Role::User | Role::Anonymous)
            | (Plane::Node | Plane::Raft | Plane::Peer, Role::Agent)
            | (Plane::Node | Plane::Raft | Plane::Peer, Role::User | Role::Anonymous) => false,
        };
    if granted { Ok(()) } else { Err(forbidden(method, caller, own)) }
}

/// Whether `caller` may act for a user: only a controller forwards what a user asked of it.
///
/// # Errors
/// `forbidden`.
pub fn allowed_on_behalf(method: Method, caller: &Identity) -> Result<(), Fault> {
    match caller.role() {
        Role::Controller => Ok(()),
        Role::Agent | Role::User | Role::Anonymous => Err(Fault::new(
            FaultCode::Forbidden,
            format!("{caller} may not call {method} on behalf of another"),
        )),
    }
}

/// The role of those who serve a plane.
fn serving_role(plane: Plane) -> Role {
    match plane {
        Plane::Node => Role::Agent,
        Plane::Client | Plane::Agent | Plane::Peer | Plane::Raft | Plane::Token => Role::Controller,
    }
}

fn forbidden(method: Method, caller: &Identity, own: Role) -> Fault {
    let hint = match caller.role() {
        Role::Anonymous => "no certificate was shown; use one that the site issued",
        Role::Controller | Role::Agent | Role::User => "the certificate's role does not allow it",
    };
    let message = format!("{caller} may not call {method} at this {own}");
    Fault::new(FaultCode::Forbidden, message).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use specs::id::{ControllerId, NodeId, UserId};

    use super::*;

    const ROLES: [Role; 4] = [Role::Controller, Role::Agent, Role::User, Role::Anonymous];

    fn callers() -> Vec<(&'static str, Identity)> {
        let [own, other] = ["berlin", "giga"].map(|site| SiteId::new(site).unwrap());
        let mut callers = Vec::from([("nobody", Identity::Anonymous)]);
        for (names, site) in [
            (["controller", "agent", "user"], own),
            (["peer's controller", "peer's agent", "peer's user"], other),
        ] {
            let id = ControllerId(1);
            callers.push((names[0], Identity::Controller { site: site.clone(), id }));
            let node = NodeId::new("n01").unwrap();
            callers.push((names[1], Identity::Agent { site: site.clone(), node }));
            let user = UserId::new("admin").unwrap();
            callers.push((names[2], Identity::User { site, user }));
        }
        callers
    }

    /// The whole table, written down a second time: plane → (who serves, who may ask).
    fn expected(plane: Plane) -> (Role, &'static [&'static str]) {
        match plane {
            Plane::Client => (Role::Controller, &["controller", "user"]),
            Plane::Agent => (Role::Controller, &["agent"]),
            Plane::Node => (Role::Agent, &["controller"]),
            Plane::Peer => (Role::Controller, &["peer's controller"]),
            Plane::Raft => (Role::Controller, &["controller"]),
            Plane::Token => (
                Role::Controller,
                &[
                    "nobody",
                    "controller",
                    "agent",
                    "user",
                    "peer's controller",
                    "peer's agent",
                    "peer's user",
                ],
            ),
        }
    }

    #[test]
    fn every_method_is_open_to_the_callers_of_its_plane_alone() {
        let site = SiteId::new("berlin").unwrap();
        for method in Method::ALL.iter().copied() {
            let (server, askers) = expected(method.plane());
            for own in ROLES {
                for (name, caller) in callers() {
                    let verdict = allowed(method, &caller, &site, own);
                    let expected = own == server && askers.contains(&name);
                    assert_eq!(verdict.is_ok(), expected, "{name} calls {method} at {own}");
                    if let Err(fault) = verdict {
                        assert_eq!(fault.code, FaultCode::Forbidden);
                    }
                }
            }
        }
    }

    #[test]
    fn only_a_controller_speaks_for_another() {
        let speakers: Vec<String> = callers()
            .into_iter()
            .filter(|(_, caller)| allowed_on_behalf(Method::Forward, caller).is_ok())
            .map(|(name, _)| name.into())
            .collect();
        assert_eq!(speakers, ["controller", "peer's controller"]);
    }
}
