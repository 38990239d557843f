//! Held against JSON: what k8s.io/api marshalled of the same pods is beside the recorded answer (`tests/interop/pods -frames`).

use std::collections::BTreeSet;
use std::io::Read;

use proptest::prelude::*;
use sonde_wire::proto::{put_bytes, put_uint, put_varint};

use super::*;
use crate::kubelet::pods;

const RECORDED: &[u8] = include_bytes!("../../../../tests/fixtures/kubelet/pods.json");
const EVERY_FIELD: &[u8] = include_bytes!("../../../../tests/fixtures/kubelet/every-field.json");
const MARSHALLED: &[u8] = include_bytes!("../../../../tests/fixtures/kubelet/pods-watch.grpc.gz");

/// The bytes of each pod.
fn marshalled() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    flate2::read::GzDecoder::new(MARSHALLED).read_to_end(&mut frames).unwrap();
    let mut rest = frames.as_slice();
    let mut pods = Vec::new();
    while let Some((prefix, more)) = rest.split_first_chunk::<5>() {
        let [_, len @ ..] = *prefix;
        let (message, more) = more.split_at(usize::try_from(u32::from_be_bytes(len)).unwrap());
        rest = more;
        let mut reader = Reader::new(message);
        while let Some(field) = reader.field().unwrap() {
            if let (2, Value::Len(pod)) = field {
                pods.push(pod.to_vec());
            }
        }
    }
    pods
}

fn every_field() -> Pod {
    serde_json::from_slice(EVERY_FIELD).unwrap()
}

#[test]
fn what_kubernetes_marshals_is_read_as_its_json() {
    let mut of_json: Vec<Pod> = pods::list(RECORDED).unwrap().items;
    of_json.push(every_field());
    of_json.sort_by(|a, b| a.metadata.uid.cmp(&b.metadata.uid));
    let of_proto: Vec<Pod> = marshalled().iter().map(|bytes| pod(bytes).unwrap()).collect();
    assert_eq!(of_proto.len(), 30);
    for (of_proto, of_json) in of_proto.iter().zip(&of_json) {
        assert_eq!(of_proto, of_json, "{}", of_json.metadata.name);
    }
}

#[test]
fn the_pod_with_every_field_has_every_field() {
    // One that is the default wherever it stands would show nothing above.
    let text = format!("{:#?}", every_field());
    let (mut seen, mut set) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(": ").filter(|(name, _)| !name.starts_with('"'))
        else {
            continue;
        };
        seen.insert(name);
        if !["\"\"", "[]", "{}", "None", "false", "0"].contains(&value.trim_end_matches(',')) {
            set.insert(name);
        }
    }
    assert_eq!(seen, set);
    assert!(seen.len() > 50, "{seen:?}");
}

/// Field `number`, a message or text.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(number) << 3 | 2);
    put_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

#[test]
fn a_message_that_comes_twice_is_merged_and_of_a_text_the_last_counts() {
    let metadata = |name: &[u8], label: &[u8]| {
        let entry = [field(1, label), field(2, b"v")].concat();
        field(1, &[field(1, name), field(11, &entry)].concat())
    };
    let status = field(3, &field(1, b"Running"));
    let got = pod(&[metadata(b"old", b"a"), status, metadata(b"new", b"b")].concat()).unwrap();
    assert_eq!((got.metadata.name.as_str(), got.status.phase.as_str()), ("new", "Running"));
    assert!(got.metadata.labels.keys().eq(["a", "b"]));
}

#[test]
fn unknown_fields_of_every_kind_and_known_ones_of_another_are_passed_over() {
    let mut more = Vec::new();
    put_uint(&mut more, 1, 7);
    put_bytes(&mut more, 15, b"\xff\xff");
    more.extend_from_slice(b"\x79\0\0\0\0\0\0\0\0\x7d\0\0\0\0");
    for bytes in marshalled() {
        let longer = [&more[..], &bytes, &more[..]].concat();
        assert_eq!(pod(&longer).unwrap(), pod(&bytes).unwrap());
    }
    assert_eq!(pod(b"").unwrap(), Pod::default());
}

#[test]
fn text_that_is_no_utf8_is_made_so() {
    let got = pod(&field(1, &field(1, b"a\xffb"))).unwrap();
    assert_eq!(got.metadata.name, "a\u{fffd}b");
}

#[test]
fn times_out_of_range_and_quantities_that_are_none_are_nothing() {
    let time = |seconds: i64| {
        let mut bytes = Vec::new();
        put_uint(&mut bytes, 1, seconds.cast_unsigned());
        pod(&field(1, &field(8, &bytes))).unwrap().metadata.creation_timestamp
    };
    assert_eq!((time(0).as_str(), time(-1).as_str()), ("1970-01-01T00:00:00Z", "1969-12-31T23:59:59Z"));
    assert_eq!((time(i64::MAX), time(i64::MIN)), (String::new(), String::new()));
    let overhead = [field(1, b"cpu"), field(2, &field(1, b"much"))].concat();
    let got = pod(&field(2, &[&[0x82, 2][..], &field(1, &overhead)[1..]].concat())).unwrap();
    assert_eq!(got.spec.overhead["cpu"], Quantity(0.0));
}

#[test]
fn a_pod_of_two_million_empty_containers_is_refused_before_they_are_made() {
    let spec: Vec<u8> = [0x12, 0].repeat(2 << 20);
    assert_eq!(pod(&field(2, &spec)), Err(PodError::Parts));
    let fits: Vec<u8> = [0x12, 0].repeat(MOST_PARTS);
    assert_eq!(pod(&field(2, &fits)).unwrap().spec.containers.len(), MOST_PARTS);
    // Over all lists and maps together.
    let labels = [0x5a, 0];
    assert_eq!(pod(&[field(2, &fits), field(1, &labels)].concat()), Err(PodError::Parts));
}

#[test]
fn a_pod_that_is_cut_anywhere_is_an_error_or_a_part_of_itself() {
    let bytes = marshalled().swap_remove(3);
    let whole = pod(&bytes).unwrap();
    let ends = (0..bytes.len()).filter(|end| pod(&bytes[..*end]).is_ok()).count();
    // Metadata, spec and status: it can end before each.
    assert!((1..=3).contains(&ends), "{ends}");
    assert_eq!(pod(&bytes).unwrap(), whole);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = pod(&noise);
    }

    #[test]
    fn no_damage_makes_it_panic_or_larger_than_its_bytes(which in 0..30usize, at in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 1..8)) {
        let mut bytes = marshalled().swap_remove(which);
        let at = at.index(bytes.len());
        bytes.splice(at..at + noise.len().min(bytes.len() - at), noise);
        if let Ok(pod) = pod(&bytes) {
            prop_assert!(pod.spec.containers.len() + pod.metadata.labels.len() <= bytes.len());
        }
    }
}
