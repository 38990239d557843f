use proptest::prelude::*;
use sonde_daemon::client::otlp::verdict::EncodingDoubt;

use super::*;

proptest! {
    #[test]
    fn what_was_not_taken_never_looks_like_a_success(
        http in prop::option::of(100u16..600), number in 0u32..18, seconds in prop::option::of(0u64..100), class in 0usize..3,
    ) {
        let after = seconds.map(Duration::from_secs);
        let answer = [Answer::Hold, Answer::Reject, Answer::Retry { after }][class].clone();
        let code = http.map_or_else(|| Status::from_number(number).name().to_owned(), |http| http.to_string());
        let verdict = Verdict { answer, code, words: String::new(), encoding: EncodingDoubt::None };
        let relayed = Relayed::of(verdict).unwrap_err();
        prop_assert!(relayed.http.as_u16() >= 400);
        prop_assert!(relayed.details.status != Status::Ok);
        prop_assert!(!matches!(relayed.details.status, Status::Unauthenticated | Status::PermissionDenied));
        prop_assert!(!matches!(relayed.http.as_u16(), 401 | 403));
        prop_assert!(!relayed.details.message.is_empty());
        // What is said to come again is what an app's SDK sends again.
        if relayed.details.retry_delay.is_some() && class != 2 {
            prop_assert_eq!((relayed.http.as_u16(), relayed.details.status), (503, Status::Unavailable));
        }
    }
}
