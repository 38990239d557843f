use proptest::prelude::*;
use prost::Message;

use super::*;

/// `google.rpc.Status` and what it holds, from the protos.
mod rpc {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Status {
        #[prost(int32, tag = "1")]
        pub code: i32,
        #[prost(string, tag = "2")]
        pub message: String,
        #[prost(message, repeated, tag = "3")]
        pub details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Any {
        #[prost(string, tag = "1")]
        pub type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        pub retry_delay: Option<Duration>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Duration {
        #[prost(int64, tag = "1")]
        pub seconds: i64,
        #[prost(int32, tag = "2")]
        pub nanos: i32,
    }
}

fn with_details(details: Vec<rpc::Any>) -> StatusDetails {
    let status = rpc::Status { code: 8, message: "busy".into(), details };
    StatusDetails::decode(&status.encode_to_vec()).unwrap()
}

fn retry_info(seconds: i64, nanos: i32) -> rpc::Any {
    let info = rpc::RetryInfo { retry_delay: Some(rpc::Duration { seconds, nanos }) };
    rpc::Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() }
}

#[test]
fn a_prefix_is_a_flag_and_a_big_endian_length() {
    let prefix = Prefix { compressed: true, len: 0x0102_0304 };
    assert_eq!(prefix.encode(), [1, 1, 2, 3, 4]);
    assert_eq!(Prefix::decode([1, 1, 2, 3, 4], usize::MAX), Ok(prefix));
    assert_eq!(Prefix::decode([0, 0, 0, 0, 0], 0), Ok(Prefix { compressed: false, len: 0 }));
}

#[test]
fn a_prefix_with_another_flag_or_too_large_a_message_is_refused() {
    assert_eq!(Prefix::decode([2, 0, 0, 0, 0], 10), Err(PrefixError::Flag(2)));
    assert_eq!(Prefix::decode([0, 0, 0, 0, 11], 10), Err(PrefixError::TooLarge { len: 11, limit: 10 }));
    assert!(Prefix::decode([0, 0, 0, 0, 10], 10).is_ok());
    assert!(Prefix::decode([0xff; 5], usize::MAX).is_err());
}

#[test]
fn codes_names_and_numbers_agree() {
    for number in 0..17u8 {
        let status = Status::from_number(number.into());
        assert_eq!(status.number(), number);
        assert_eq!(Status::from_name(status.name()), Some(status));
        assert_eq!(Status::from_trailer(number.to_string().as_bytes()), status);
    }
    assert_eq!(Status::ResourceExhausted.to_string(), "RESOURCE_EXHAUSTED");
    assert_eq!(Status::Unauthenticated.number(), 16);
    assert_eq!(Status::from_number(17), Status::Unknown);
    for trailer in [&b""[..], b"-1", b"+0", b"x", b"99999999999", b"\xff"] {
        assert_eq!(Status::from_trailer(trailer), Status::Unknown);
    }
    assert_eq!(Status::from_name("nothing"), None);
}

#[test]
fn retry_info_is_found_among_other_details() {
    let other = rpc::Any { type_url: "type.googleapis.com/google.rpc.DebugInfo".into(), value: vec![0xff] };
    let details = with_details(vec![other.clone(), retry_info(3, 500_000_000), other]);
    assert_eq!(details.status, Status::ResourceExhausted);
    assert_eq!(details.message, "busy");
    assert_eq!(details.retry_delay, Some(Duration::from_millis(3500)));
}

#[test]
fn no_retry_info_differs_from_one_that_says_at_once() {
    assert_eq!(with_details(vec![]).retry_delay, None);
    assert_eq!(with_details(vec![retry_info(0, 0)]).retry_delay, Some(Duration::ZERO));
    let empty = rpc::Any { type_url: "google.rpc.RetryInfo".into(), value: vec![] };
    assert_eq!(with_details(vec![empty]).retry_delay, Some(Duration::ZERO));
}

#[test]
fn hostile_delays_neither_panic_nor_go_back() {
    for (seconds, nanos) in [(-5, 0), (i64::MIN, i32::MIN), (0, -1), (-1, 5)] {
        assert_eq!(with_details(vec![retry_info(seconds, nanos)]).retry_delay, Some(Duration::ZERO));
    }
    let most = with_details(vec![retry_info(i64::MAX, i32::MAX)]).retry_delay;
    assert_eq!(most.map(|d| d.as_secs()), Some(i64::MAX.cast_unsigned()));
}

/// `{code: 14, message: "try later", details: [RetryInfo {retry_delay: 1 s}]}`, put together from the protos by a script.
#[test]
fn a_trailer_is_read_with_and_without_padding() {
    let trailer = "CA4SCXRyeSBsYXRlchowCih0eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5ycGMuUmV0cnlJbmZvEgQKAggB";
    let details = StatusDetails::decode_trailer(trailer.as_bytes()).unwrap();
    let expected = StatusDetails {
        status: Status::Unavailable,
        message: "try later".into(),
        retry_delay: Some(Duration::from_secs(1)),
    };
    assert_eq!(details, expected);
    assert_eq!(StatusDetails::decode_trailer(b"CA4="), StatusDetails::decode_trailer(b"CA4"));
    assert_eq!(StatusDetails::decode_trailer(b"C"), Err(DetailsError::Base64));
    assert_eq!(StatusDetails::decode_trailer(b"CA"), Err(DetailsError::Proto(ProtoError::Truncated)));
}

#[test]
fn a_message_of_any_size_is_cut_at_a_character() {
    let status = rpc::Status { message: "\u{20ac}".repeat(2000), ..Default::default() };
    let message = StatusDetails::decode(&status.encode_to_vec()).unwrap().message;
    assert_eq!(message, "\u{20ac}".repeat(MESSAGE_BYTES / 3));
    assert!(decode_message(&b"x".repeat(100_000)).len() <= MESSAGE_BYTES);
}

#[test]
fn messages_are_percent_encoded_as_grpc_says() {
    assert_eq!(encode_message("100% \u{e9}\n~ ok"), "100%25 %C3%A9%0A~ ok");
    assert_eq!(decode_message(b"100%25 %c3%A9%0A~ ok"), "100% \u{e9}\n~ ok");
    // Broken escapes stay as they are.
    assert_eq!(decode_message(b"50% off %zz %"), "50% off %zz %");
    assert_eq!(decode_message(b"%4"), "%4");
    assert_eq!(decode_message(b"%ff!"), "\u{fffd}!");
}

proptest! {
    #[test]
    fn details_are_written_as_prost_reads_them(
        number in 0..17u8,
        message in "\\PC{0,40}",
        delay in prop::option::of((0..1u64 << 38, 0..1_000_000_000u32)),
    ) {
        let details = StatusDetails {
            status: Status::from_number(number.into()),
            message: message.clone(),
            retry_delay: delay.map(|(seconds, nanos)| Duration::new(seconds, nanos)),
        };
        prop_assert_eq!(StatusDetails::decode_trailer(details.encode_trailer().as_bytes()), Ok(details.clone()));
        let theirs = rpc::Status::decode(&details.encode()[..]).unwrap();
        prop_assert_eq!((theirs.code, theirs.message), (number.into(), message));
        let info = theirs.details.first().map(|any| rpc::RetryInfo::decode(&any.value[..]).unwrap());
        let delay = delay.map(|(s, n)| rpc::Duration { seconds: s.cast_signed(), nanos: n.cast_signed() });
        prop_assert_eq!(info.and_then(|info| info.retry_delay), delay);
    }

    #[test]
    fn a_message_survives_its_encoding(message in "\\PC{0,100}") {
        let encoded = encode_message(&message);
        prop_assert!(encoded.bytes().all(|b| (b' '..=b'~').contains(&b)));
        prop_assert_eq!(decode_message(encoded.as_bytes()), message);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = StatusDetails::decode(&bytes);
        let _ = StatusDetails::decode_trailer(&bytes);
        let _ = decode_message(&bytes);
    }
}
