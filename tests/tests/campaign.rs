//! The short campaign: the long one is `cargo run -p sonde-tests --bin campaign`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sonde_tests::campaign::Campaign;

fn every_line_is_stored_once_through_kills_and_rotations(seed: u64, http: bool) {
    let dir = tempfile::tempdir().unwrap();
    let campaign = Campaign {
        seed,
        rate: 10_000,
        rotation: Duration::from_millis(400),
        agent_kills: 6,
        collector_kills: 3,
        pause: Duration::from_secs(3),
        away: Duration::from_secs(2),
        delete_state: true,
        http,
    };
    match campaign.run(dir.path()) {
        Ok(report) => eprintln!("{report:?}"),
        Err(error) => {
            let kept = dir.keep();
            panic!("{error:#}\nkept in {}", kept.display());
        }
    }
}

#[test]
fn every_line_is_stored_once_through_kills_and_rotations_over_grpc() {
    every_line_is_stored_once_through_kills_and_rotations(1, false);
}

#[test]
fn every_line_is_stored_once_through_kills_and_rotations_over_http() {
    every_line_is_stored_once_through_kills_and_rotations(2, true);
}
