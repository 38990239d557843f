use super::*;

const LATER: Option<Duration> = Some(Duration::from_secs(7));

#[test]
fn grpc_answers_fall_in_the_classes_of_the_contract() {
    for name in ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"] {
        let status = Status::from_name(name).unwrap();
        assert_eq!(from_grpc(status, LATER), Answer::Retry { after: LATER }, "{name}");
        assert_eq!(from_grpc(status, None), Answer::BROKEN, "{name}");
    }
    for name in ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"] {
        assert_eq!(from_grpc(Status::from_name(name).unwrap(), LATER), Answer::Hold, "{name}");
    }
    assert_eq!(from_grpc(Status::InvalidArgument, LATER), Answer::Reject);
    assert_eq!(from_grpc(Status::Ok, None), Answer::accepted(PartialSuccess::default()));
}

#[test]
fn resource_exhausted_is_retried_only_with_retry_info() {
    assert_eq!(from_grpc(Status::ResourceExhausted, None), Answer::Reject);
    let at_once = Some(Duration::ZERO);
    assert_eq!(from_grpc(Status::ResourceExhausted, at_once), Answer::Retry { after: at_once });
}

#[test]
fn http_answers_fall_in_the_classes_of_the_contract() {
    for status in [408, 429, 502, 503, 504] {
        assert_eq!(from_http(status, LATER), Answer::Retry { after: LATER }, "{status}");
        assert_eq!(from_http(status, None), Answer::BROKEN, "{status}");
    }
    for status in [401, 403, 404, 405, 415, 500] {
        assert_eq!(from_http(status, LATER), Answer::Hold, "{status}");
    }
    for status in [400, 413] {
        assert_eq!(from_http(status, LATER), Answer::Reject, "{status}");
    }
    for status in [200, 202, 204] {
        assert_eq!(from_http(status, None), Answer::accepted(PartialSuccess::default()), "{status}");
    }
}

#[test]
fn what_the_contract_does_not_list_loses_nothing() {
    for number in 0..=20 {
        let status = Status::from_number(number);
        let lost = from_grpc(status, None) == Answer::Reject;
        assert_eq!(lost, matches!(status, Status::InvalidArgument | Status::ResourceExhausted), "{status}");
    }
    for status in 0..=999u16 {
        let answer = from_http(status, None);
        assert_eq!(answer == Answer::Reject, matches!(status, 400 | 413), "{status}");
        assert_eq!(
            matches!(answer, Answer::Accepted { .. }),
            matches!(status, 200 | 201 | 202 | 204),
            "{status}"
        );
    }
}
