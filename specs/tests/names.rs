//! Names are text, however they are kept.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use proptest::prelude::*;
use specs::codec::{Reader, Value};
use specs::id::{NAME_LEN_MAX, NodeId, REQUEST_ID_LEN_MAX, RequestId};

#[test]
fn names_of_every_length_are_kept_and_travel() {
    for len in 1..=REQUEST_ID_LEN_MAX {
        let text = "x".repeat(len);
        let request = RequestId::new(&text).unwrap();
        assert_eq!(request.as_str(), text);
        let mut bytes = Vec::new();
        request.put(&mut bytes);
        assert_eq!(RequestId::get(&mut Reader::new(&bytes)), Ok(request));
        assert_eq!(NodeId::new(&text).is_ok(), len <= NAME_LEN_MAX);
    }
    assert!(RequestId::new(&"x".repeat(REQUEST_ID_LEN_MAX + 1)).is_err());
}

proptest! {
    #[test]
    fn names_are_ordered_as_their_texts(one in "[a-b0]{1,63}", another in "[a-b0]{1,63}") {
        let (a, b) = (NodeId::new(&one).unwrap(), NodeId::new(&another).unwrap());
        prop_assert_eq!(a.cmp(&b), one.cmp(&another));
        prop_assert_eq!(a == b, one == another);
        prop_assert_eq!(a.as_str(), one.as_str());
        let (a, b) = (RequestId::new(&one).unwrap(), RequestId::new(&another).unwrap());
        prop_assert_eq!(a.cmp(&b), one.cmp(&another));
    }
}
