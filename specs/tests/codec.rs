//! The codec against prost: the same messages, written both ways, give the same bytes. And what a
//! hostile or a newer writer may send.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(unreachable_pub, reason = "the macros define public types")]

extern crate alloc;

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use specs::codec::{Blob, DEPTH_MAX, DecodeError, Message as _};

specs::enumeration! {
    pub enum Colour {
        1 => Red = "red",
        2 => Blue = "blue",
    }
}

specs::message! {
    #[derive(Default)]
    pub struct Inner {
        1 => number: u64,
        2 => text: String,
    }

    pub struct Outer {
        1 => small: u16,
        2 => medium: u32,
        3 => large: u64,
        4 => signed: i32,
        5 => flag: bool,
        6 => text: String,
        7 => blob: Blob,
        8 => inner: Inner,
        9 => maybe_inner: Option<Inner>,
        10 => maybe_number: Option<u64>,
        11 => maybe_text: Option<String>,
        12 => inners: Vec<Inner>,
        13 => numbers: Vec<u64>,
        14 => texts: Vec<String>,
        15 => texts_by_text: BTreeMap<String, String>,
        16 => inners_by_number: BTreeMap<u32, Inner>,
        17 => colour: Colour,
        18 => boxed: Box<Inner>,
        300 => far: u32,
        536_870_911 => farthest: bool,
    }

    /// Holds itself, so that it nests as deep as one likes.
    pub struct Chain {
        1 => next: Option<Box<Chain>>,
    }

    /// All that [`Outer`] must have, and no more.
    pub struct Needy {
        8 => inner: Inner,
        17 => colour: Colour,
        21 => id: u128,
    }
}

specs::choice! {
    pub enum Either {
        1 => Number(u64),
        2 => Text(String),
        5 => Inner(Inner),
        6 => Flag(bool),
    }
}

mod theirs {
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Inner {
        #[prost(uint64, tag = "1")]
        pub number: u64,
        #[prost(string, tag = "2")]
        pub text: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Outer {
        #[prost(uint32, tag = "1")]
        pub small: u32,
        #[prost(uint32, tag = "2")]
        pub medium: u32,
        #[prost(uint64, tag = "3")]
        pub large: u64,
        #[prost(int32, tag = "4")]
        pub signed: i32,
        #[prost(bool, tag = "5")]
        pub flag: bool,
        #[prost(string, tag = "6")]
        pub text: String,
        #[prost(bytes = "vec", tag = "7")]
        pub blob: Vec<u8>,
        #[prost(message, optional, tag = "8")]
        pub inner: Option<Inner>,
        #[prost(message, optional, tag = "9")]
        pub maybe_inner: Option<Inner>,
        #[prost(uint64, optional, tag = "10")]
        pub maybe_number: Option<u64>,
        #[prost(string, optional, tag = "11")]
        pub maybe_text: Option<String>,
        #[prost(message, repeated, tag = "12")]
        pub inners: Vec<Inner>,
        #[prost(uint64, repeated, packed = "false", tag = "13")]
        pub numbers: Vec<u64>,
        #[prost(string, repeated, tag = "14")]
        pub texts: Vec<String>,
        #[prost(btree_map = "string, string", tag = "15")]
        pub texts_by_text: BTreeMap<String, String>,
        #[prost(btree_map = "uint32, message", tag = "16")]
        pub inners_by_number: BTreeMap<u32, Inner>,
        #[prost(uint32, tag = "17")]
        pub colour: u32,
        #[prost(message, optional, boxed, tag = "18")]
        pub boxed: Option<Box<Inner>>,
        #[prost(uint32, tag = "300")]
        pub far: u32,
        #[prost(bool, tag = "536870911")]
        pub farthest: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Either {
        #[prost(oneof = "Choice", tags = "1, 2, 5, 6")]
        pub choice: Option<Choice>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Choice {
        #[prost(uint64, tag = "1")]
        Number(u64),
        #[prost(string, tag = "2")]
        Text(String),
        #[prost(message, tag = "5")]
        Inner(Inner),
        #[prost(bool, tag = "6")]
        Flag(bool),
    }
}

fn their_inner(ours: &Inner) -> theirs::Inner {
    theirs::Inner { number: ours.number, text: ours.text.clone() }
}

fn their_outer(ours: &Outer) -> theirs::Outer {
    theirs::Outer {
        small: ours.small.into(),
        medium: ours.medium,
        large: ours.large,
        signed: ours.signed,
        flag: ours.flag,
        text: ours.text.clone(),
        blob: ours.blob.0.clone(),
        inner: Some(their_inner(&ours.inner)),
        maybe_inner: ours.maybe_inner.as_ref().map(their_inner),
        maybe_number: ours.maybe_number,
        maybe_text: ours.maybe_text.clone(),
        inners: ours.inners.iter().map(their_inner).collect(),
        numbers: ours.numbers.clone(),
        texts: ours.texts.clone(),
        texts_by_text: ours.texts_by_text.clone(),
        inners_by_number: ours
            .inners_by_number
            .iter()
            .map(|(key, value)| (*key, their_inner(value)))
            .collect(),
        colour: ours.colour.number(),
        boxed: Some(Box::new(their_inner(&ours.boxed))),
        far: ours.far,
        farthest: ours.farthest,
    }
}

fn their_either(ours: &Either) -> theirs::Either {
    let choice = match ours {
        Either::Number(number) => theirs::Choice::Number(*number),
        Either::Text(text) => theirs::Choice::Text(text.clone()),
        Either::Inner(inner) => theirs::Choice::Inner(their_inner(inner)),
        Either::Flag(flag) => theirs::Choice::Flag(*flag),
    };
    theirs::Either { choice: Some(choice) }
}

/// Numbers of every length on the wire.
fn number() -> impl Strategy<Value = u64> {
    (0u32..64, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), ".{0,12}", "[a-z]{120,140}"]
}

fn inner() -> impl Strategy<Value = Inner> {
    (number(), word()).prop_map(|(number, text)| Inner { number, text })
}

prop_compose! {
    /// Every field but the maps.
    fn plain()(
        (small, medium, large, signed) in (any::<u16>(), any::<u32>(), number(), any::<i32>()),
        (flag, text, blob) in (any::<bool>(), word(), vec(any::<u8>(), 0..200)),
        (inner, maybe_inner, boxed) in (inner(), option::of(inner()), inner()),
        (maybe_number, maybe_text) in (option::of(number()), option::of(word())),
        (inners, numbers, texts) in (vec(inner(), 0..4), vec(number(), 0..4), vec(word(), 0..4)),
        colour in prop::sample::select(Colour::ALL),
        (far, farthest) in (any::<u32>(), any::<bool>()),
    ) -> Outer {
        Outer {
            small, medium, large, signed, flag, text, blob: Blob(blob), inner, maybe_inner,
            maybe_number, maybe_text, inners, numbers, texts, colour, boxed: Box::new(boxed), far,
            farthest, texts_by_text: BTreeMap::new(), inners_by_number: BTreeMap::new(),
        }
    }
}

prop_compose! {
    fn outer()(
        outer in plain(),
        texts_by_text in btree_map(word(), word(), 0..4),
        inners_by_number in btree_map(any::<u32>(), inner(), 0..4),
    ) -> Outer {
        Outer { texts_by_text, inners_by_number, ..outer }
    }
}

fn either() -> impl Strategy<Value = Either> {
    prop_oneof![
        number().prop_map(Either::Number),
        word().prop_map(Either::Text),
        inner().prop_map(Either::Inner),
        any::<bool>().prop_map(Either::Flag),
    ]
}

/// True if prost writes the same bytes: in a map it leaves out a key or a value that is the
/// default, where protobuf's own implementations, and ours, write both. We read such a pair if the
/// value is a number or a text; an absent message is missing here as anywhere else.
fn is_written_alike(outer: &Outer) -> bool {
    outer.texts_by_text.iter().all(|(key, value)| !key.is_empty() && !value.is_empty())
        && outer.inners_by_number.iter().all(|(key, value)| *key != 0 && *value != Inner::default())
}

proptest! {
    #[test]
    fn our_bytes_are_prosts_bytes(ours in outer()) {
        let theirs = their_outer(&ours);
        let bytes = ours.encode();
        if is_written_alike(&ours) {
            prop_assert_eq!(&bytes, &theirs.encode_to_vec());
        }
        prop_assert_eq!(theirs::Outer::decode(&*bytes).unwrap(), theirs);
    }

    #[test]
    fn we_read_what_prost_writes(ours in outer()) {
        let theirs = their_outer(&ours).encode_to_vec();
        if ours.inners_by_number.values().all(|inner| *inner != Inner::default()) {
            prop_assert_eq!(Outer::decode(&theirs).unwrap(), ours.clone());
        } else {
            prop_assert_eq!(Outer::decode(&theirs), Err(DecodeError::Missing("value")));
        }
        prop_assert_eq!(Outer::decode(&ours.encode()).unwrap(), ours);
    }

    #[test]
    fn a_choice_is_prosts_oneof(ours in either()) {
        let theirs = their_either(&ours);
        prop_assert_eq!(ours.encode(), theirs.encode_to_vec());
        prop_assert_eq!(theirs::Either::decode(&*ours.encode()).unwrap(), theirs);
        prop_assert_eq!(Either::decode(&ours.encode()).unwrap(), ours);
    }

    #[test]
    fn fields_may_come_in_any_order_and_unknown_ones_are_skipped(ours in outer()) {
        // A newer writer's fields before, and the same fields again after: the last one counts.
        let mut bytes = newer_fields();
        bytes.extend(Needy { inner: Inner::default(), colour: Colour::Red, id: 7 }.encode());
        bytes.extend(newer_fields());
        bytes.extend(ours.encode());
        bytes.extend(newer_fields());
        prop_assert_eq!(Outer::decode(&bytes).unwrap(), ours.clone());
        let needy = Needy::decode(&bytes).unwrap();
        prop_assert_eq!(needy, Needy { inner: ours.inner, colour: ours.colour, id: 7 });
    }

    #[test]
    fn every_prefix_is_read_or_refused(ours in outer()) {
        let bytes = ours.encode();
        for end in 0..bytes.len() {
            // A prefix that ends between two fields may hold all that is required.
            drop(Outer::decode(&bytes[..end]));
            drop(Either::decode(&bytes[..end]));
        }
    }

    #[test]
    fn a_message_cut_inside_its_last_field_is_truncated(number in 128u64.., text in ".{1,40}") {
        let bytes = Inner { number, text }.encode();
        prop_assert_eq!(Inner::decode(&bytes[..bytes.len() - 1]), Err(DecodeError::Truncated));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..300)) {
        drop(Outer::decode(&bytes));
        drop(Either::decode(&bytes));
        drop(Chain::decode(&bytes));
        drop(Needy::decode(&bytes));
    }

    #[test]
    fn one_changed_byte_makes_no_reader_panic(
        ours in outer(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = ours.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Outer::decode(&bytes) {
            prop_assert_eq!(Outer::decode(&read.encode()).unwrap(), read);
        }
    }
}

/// One field of every wire type, with tags that no message here has.
fn newer_fields() -> Vec<u8> {
    let mut bytes = vec![0xa0, 0x06, 0xff, 0x01]; // 100, varint
    bytes.extend([0xa9, 0x06, 1, 2, 3, 4, 5, 6, 7, 8]); // 101, 64 bits
    bytes.extend([0xb2, 0x06, 3, 0xff, 0xfe, 0xfd]); // 102, bytes
    bytes.extend([0xbd, 0x06, 1, 2, 3, 4]); // 103, 32 bits
    bytes
}

fn chain(links: u32) -> Chain {
    (0..links).fold(Chain { next: None }, |next, _| Chain { next: Some(Box::new(next)) })
}

#[test]
fn nesting_is_read_to_the_limit_and_no_further() {
    let deepest = chain(DEPTH_MAX);
    assert_eq!(Chain::decode(&deepest.encode()), Ok(deepest));
    assert_eq!(Chain::decode(&chain(DEPTH_MAX + 1).encode()), Err(DecodeError::Depth));
    assert_eq!(Chain::decode(&chain(2_000).encode()), Err(DecodeError::Depth));
}

#[test]
fn a_field_that_must_be_there_is_missed_by_name() {
    let empty = Inner::decode(&[]).unwrap();
    assert_eq!(empty, Inner::default());
    let whole = Needy { inner: Inner::default(), colour: Colour::Blue, id: 1 }.encode();
    assert!(Needy::decode(&whole).is_ok());
    let parts = [(0..2, "inner"), (2..5, "colour"), (5..whole.len(), "id")];
    for (range, name) in parts {
        let mut bytes = whole.clone();
        bytes.drain(range);
        assert_eq!(Needy::decode(&bytes), Err(DecodeError::Missing(name)));
    }
}

#[test]
fn a_choice_of_a_newer_version_is_an_unknown_variant() {
    assert_eq!(Either::decode(&[]), Err(DecodeError::UnknownVariant("Either")));
    assert_eq!(Either::decode(&newer_fields()), Err(DecodeError::UnknownVariant("Either")));
    let colour = [0x88, 0x01, 9];
    assert_eq!(Outer::decode(&colour), Err(DecodeError::UnknownVariant("Colour")));
}

#[test]
fn what_the_format_forbids_is_refused() {
    let eleven = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    let too_large = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2];
    let largest = [0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    assert_eq!(Inner::decode(&eleven), Err(DecodeError::Range));
    assert_eq!(Inner::decode(&too_large), Err(DecodeError::Range));
    assert_eq!(Inner::decode(&largest).unwrap().number, u64::MAX);
    // 65,536 does not fit 16 bits; 2^32 does not fit 32; a flag is 0 or 1.
    assert_eq!(Outer::decode(&[0x08, 0x80, 0x80, 0x04]), Err(DecodeError::Range));
    assert_eq!(Outer::decode(&[0x10, 0x80, 0x80, 0x80, 0x80, 0x10]), Err(DecodeError::Range));
    assert_eq!(Outer::decode(&[0x20, 0x80, 0x80, 0x80, 0x80, 0x10]), Err(DecodeError::Range));
    assert_eq!(Outer::decode(&[0x28, 2]), Err(DecodeError::Range));
    // Field 0, a group, and a number where a text belongs.
    assert_eq!(Inner::decode(&[0x00, 1]), Err(DecodeError::WireType { tag: 0, wire: 0 }));
    assert_eq!(Inner::decode(&[0x0b]), Err(DecodeError::WireType { tag: 1, wire: 3 }));
    assert_eq!(Inner::decode(&[0x10, 1]), Err(DecodeError::WireType { tag: 2, wire: 0 }));
    // Text that is not UTF-8, and a length far past the end.
    assert_eq!(Inner::decode(&[0x12, 1, 0xff]), Err(DecodeError::Invalid("text")));
    let far = [0x12, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
    assert_eq!(Inner::decode(&far), Err(DecodeError::Truncated));
    // A list that is packed.
    assert_eq!(Outer::decode(&[0x6a, 1, 5]), Err(DecodeError::WireType { tag: 13, wire: 2 }));
}
