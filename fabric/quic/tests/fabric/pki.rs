//! Authorities, certificates and keys on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use fabric_core::trust::Refusal;
use fabric_quic::pki::{Authority, Credentials, KeyRequest, PkiError, pin_of};

use crate::support::{Site, agent, controller, site, user};

#[test]
fn what_is_saved_is_loaded_and_keys_are_private() {
    let berlin = Site::new("berlin");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pki");
    berlin.authority.save(&path).unwrap();
    let loaded = Authority::load(&berlin.env, &path).unwrap();
    assert_eq!(loaded.certificate(), berlin.authority.certificate());
    assert_eq!(loaded.pin(), berlin.authority.pin());

    let credentials = berlin.credentials(&controller("berlin", 7));
    credentials.save(&path, "controller").unwrap();
    // Saving again replaces.
    credentials.save(&path, "controller").unwrap();
    let loaded = Credentials::load(&berlin.env, &path, "controller").unwrap();
    assert_eq!(loaded.identity(), &controller("berlin", 7));
    assert_eq!(loaded.certificate(), credentials.certificate());
    assert_eq!(loaded.ca(), berlin.authority.certificate());

    for name in ["ca.key", "controller.key"] {
        let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let names: Vec<_> =
        fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let berlin = Site::new("berlin");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    berlin.credentials(&agent("berlin", "a")).save(path, "a").unwrap();
    berlin.credentials(&agent("berlin", "b")).save(path, "b").unwrap();
    fs::copy(path.join("a.key"), path.join("b.key")).unwrap();
    let error = Credentials::load(&berlin.env, path, "b").unwrap_err();
    assert!(matches!(error, PkiError::Mismatch), "{error}");
    fs::write(path.join("a.pem"), "nothing").unwrap();
    let error = Credentials::load(&berlin.env, path, "a").unwrap_err();
    assert!(matches!(error, PkiError::Content { .. }), "{error}");
    let error = Credentials::load(&berlin.env, path, "absent").unwrap_err();
    assert!(error.to_string().contains("absent.pem"), "{error}");
}

#[test]
fn an_authority_issues_for_its_own_site_alone() {
    let berlin = Site::new("berlin");
    for identity in [controller("giga", 1), user("giga", "admin")] {
        let error = berlin.authority.credentials(&berlin.env, &identity).unwrap_err();
        assert!(matches!(error, PkiError::OtherSite { .. }), "{error}");
    }
}

#[test]
fn a_request_gets_the_identity_that_the_site_decides() {
    let berlin = Site::new("berlin");
    let request = KeyRequest::create(&berlin.env).unwrap();
    let leaf = berlin.authority.issue(&berlin.env, &agent("berlin", "n01"), request.csr()).unwrap();
    let other = KeyRequest::create(&berlin.env).unwrap();
    let ca = berlin.authority.certificate();
    let error = other.into_credentials(&leaf, ca).unwrap_err();
    assert!(matches!(error, PkiError::Mismatch), "{error}");
    let credentials = request.into_credentials(&leaf, ca).unwrap();
    assert_eq!(credentials.identity(), &agent("berlin", "n01"));
}

#[test]
fn a_request_that_was_changed_is_refused() {
    let berlin = Site::new("berlin");
    let request = KeyRequest::create(&berlin.env).unwrap();
    // What is signed begins after two bytes of head and has its length in its own.
    let signed = 3..5 + usize::from(request.csr()[4]);
    for at in signed {
        let mut csr = request.csr().to_vec();
        csr[at] ^= 1;
        let issued = berlin.authority.issue(&berlin.env, &agent("berlin", "n01"), &csr);
        assert!(issued.is_err(), "byte {at}");
    }
}

#[test]
fn an_authority_is_trusted_for_its_own_name_alone() {
    let (berlin, giga) = (Site::new("berlin"), Site::new("giga"));
    let refusal = berlin.trust.trust(&site("giga"), berlin.authority.certificate()).unwrap_err();
    assert!(matches!(refusal, Refusal::OtherAuthority { .. }), "{refusal}");
    let leaf = giga.credentials(&controller("giga", 1));
    assert_eq!(berlin.trust.trust(&site("giga"), leaf.certificate()), Err(Refusal::NotAuthority));
    assert_eq!(berlin.trust.trust(&site("giga"), b"nothing"), Err(Refusal::Unreadable));
    assert_eq!(berlin.trust.sites(), [site("berlin")]);
}

#[test]
fn debug_output_holds_no_private_key() {
    let berlin = Site::new("berlin");
    let directory = tempfile::tempdir().unwrap();
    berlin.authority.save(directory.path()).unwrap();
    let text = format!("{:?}", berlin.authority);
    assert!(text.contains("public") && !text.contains("der: PrivateKeyDer"), "{text}");
}

#[test]
fn the_pin_is_that_of_the_key_and_not_of_the_certificate() {
    let berlin = Site::new("berlin");
    let leaf = berlin.credentials(&controller("berlin", 1));
    assert_eq!(
        pin_of(&berlin.env, berlin.authority.certificate()).unwrap(),
        berlin.authority.pin()
    );
    assert_ne!(pin_of(&berlin.env, leaf.certificate()).unwrap(), berlin.authority.pin());
}
