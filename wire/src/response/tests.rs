use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use proptest::prelude::*;
use prost::Message;

use super::*;

#[test]
fn full_success_has_no_bytes() {
    assert!(encode_logs_response(0, "").is_empty());
    assert_eq!(decode_logs_response(&[]), Ok(PartialSuccess::default()));
}

#[test]
fn an_acceptance_is_read_whatever_it_looks_like() {
    let response = |rejected_log_records| {
        let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: String::new() };
        ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
    };
    assert_eq!(decode_logs_response(&response(-1)).unwrap().rejected, 0);
    let invalid = b"\x0a\x04\x12\x02\xc3\x28";
    assert_eq!(decode_logs_response(invalid).unwrap().message, "\u{fffd}(");
}

proptest! {
    #[test]
    fn both_ways_agree_with_prost(rejected in 0..=i64::MAX, message in "\\PC{0,100}") {
        let bytes = encode_logs_response(rejected.cast_unsigned(), &message);
        let theirs = ExportLogsServiceResponse::decode(&bytes[..]).unwrap();
        let partial = theirs.partial_success.clone().unwrap_or_default();
        prop_assert_eq!((partial.rejected_log_records, &partial.error_message), (rejected, &message));
        let ours = decode_logs_response(&theirs.encode_to_vec());
        prop_assert_eq!(ours, Ok(PartialSuccess { rejected: rejected.cast_unsigned(), message }));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = decode_logs_response(&bytes);
    }
}
