//! The short campaign: the long one is `cargo run -p sonde-tests --bin campaign`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sonde_tests::campaign::schedule::Plan;
use sonde_tests::campaign::{Campaign, Report, Sabotage};

fn short(seed: u64, http: bool) -> Campaign {
    Campaign {
        seed,
        rate: 4_000,
        rotation: Duration::from_millis(400),
        plan: Plan {
            agent_kills: 6,
            collector_kills: 4,
            forgets: 1,
            stops: 1,
            outages: 5,
            full_disks: 1,
            pause: Duration::from_secs(2),
        },
        http,
        sabotage: None,
        verbose: false,
    }
}

fn every_line_is_stored_once_through_everything_that_can_happen(seed: u64, http: bool) {
    let dir = tempfile::tempdir().unwrap();
    match short(seed, http).run(dir.path()) {
        Ok(report) => eprintln!("{}\n{}\n{report}", report.verdict, Report::HEAD),
        Err(error) => {
            let kept = dir.keep();
            panic!("{error:#}\nkept in {}", kept.display());
        }
    }
}

#[test]
fn every_line_is_stored_once_through_everything_that_can_happen_over_grpc() {
    every_line_is_stored_once_through_everything_that_can_happen(1, false);
}

#[test]
fn every_line_is_stored_once_through_everything_that_can_happen_over_http() {
    every_line_is_stored_once_through_everything_that_can_happen(2, true);
}

#[test]
fn a_request_that_was_acknowledged_and_thrown_away_and_a_line_that_stands_twice_are_found() {
    let nothing = Plan {
        agent_kills: 1,
        collector_kills: 0,
        forgets: 0,
        stops: 0,
        outages: 0,
        full_disks: 0,
        pause: Duration::from_secs(1),
    };
    for (sabotage, http, found) in [
        (Sabotage::Drop, false, "lost"),
        (Sabotage::Drop, true, "lost"),
        (Sabotage::Double, false, "doubled"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let campaign = Campaign { plan: nothing, sabotage: Some(sabotage), ..short(3, http) };
        let error = campaign.run(dir.path()).expect_err("it agrees").to_string();
        let count = error.lines().find_map(|line| line.trim().strip_prefix(found)?.split_whitespace().next());
        assert!(count.is_some_and(|count| count != "0"), "{sabotage:?} over HTTP {http}: {error}");
    }
}
