//! The short campaign: the long one is `cargo run -p sonde-tests --bin campaign`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use sonde_tests::campaign::schedule::Plan;
use sonde_tests::campaign::{Campaign, Report, Sabotage, Server};
use sonde_tests::daemon::Daemon;

fn short(seed: u64, http: bool) -> Campaign {
    Campaign {
        seed,
        rate: 4_000,
        rotation: Duration::from_millis(400),
        plan: Plan {
            collectors: 1,
            agent_kills: 6,
            collector_kills: 4,
            forgets: 1,
            stops: 1,
            outages: 5,
            full_disks: 1,
            deaths: 0,
            rollovers: 0,
            pause: Duration::from_secs(2),
        },
        shared: None,
        http,
        sabotage: None,
        verbose: false,
    }
}

/// Three collectors in front of one stand-in for Elasticsearch, and another one that refuses, hangs, and answers nonsense.
fn short_of_three(seed: u64) -> Campaign {
    let campaign = short(seed, false);
    let plan = Plan {
        collectors: 3,
        agent_kills: 4,
        collector_kills: 2,
        outages: 3,
        deaths: 3,
        rollovers: 2,
        pause: Duration::from_secs(1),
        ..campaign.plan
    };
    Campaign { rate: 2_000, plan, shared: Some(Server::Stub), ..campaign }
}

fn agrees(campaign: &Campaign) {
    let dir = tempfile::tempdir().unwrap();
    match campaign.run(dir.path()) {
        Ok(report) => eprintln!("{}\n{}\n{report}", report.verdict, Report::HEAD),
        Err(error) => {
            let kept = dir.keep();
            panic!("{error:#}\nkept in {}", kept.display());
        }
    }
}

#[test]
fn every_line_is_stored_once_through_everything_that_can_happen_over_grpc() {
    agrees(&short(1, false));
}

#[test]
fn every_line_is_stored_once_through_everything_that_can_happen_over_http() {
    agrees(&short(2, true));
}

#[test]
fn every_line_is_in_the_shared_index_once_behind_three_collectors_beside_a_sink_that_dies() {
    if !Daemon::may_have_hosts() {
        eprintln!(
            "SKIPPED every_line_is_in_the_shared_index_once_behind_three_collectors_beside_a_sink_that_dies: \
             no right to make a mount namespace, where a name has three addresses"
        );
        return;
    }
    agrees(&short_of_three(4));
}

#[test]
fn a_request_that_was_acknowledged_and_thrown_away_and_a_line_that_stands_twice_are_found() {
    let quiet = |campaign: Campaign| {
        let plan = Plan {
            collectors: campaign.plan.collectors,
            agent_kills: 1,
            collector_kills: 0,
            forgets: 0,
            stops: 0,
            outages: 0,
            full_disks: 0,
            deaths: 0,
            rollovers: 0,
            pause: Duration::from_secs(1),
        };
        Campaign { plan, ..campaign }
    };
    let mut cases = vec![
        (Sabotage::Drop, quiet(short(3, false)), "lost"),
        (Sabotage::Drop, quiet(short(3, true)), "lost"),
        (Sabotage::Double, quiet(short(3, false)), "doubled"),
    ];
    if Daemon::may_have_hosts() {
        cases.push((Sabotage::Drop, quiet(short_of_three(3)), "lost"));
        cases.push((Sabotage::Double, quiet(short_of_three(3)), "doubled"));
    }
    for (sabotage, campaign, found) in cases {
        let dir = tempfile::tempdir().unwrap();
        let campaign = Campaign { sabotage: Some(sabotage), ..campaign };
        let error = format!("{:#}", campaign.run(dir.path()).expect_err("it agrees"));
        let count = error.lines().find_map(|line| line.trim().strip_prefix(found)?.split_whitespace().next());
        assert!(count.is_some_and(|count| count != "0"), "{sabotage:?} of {campaign:?}: {error}");
    }
}
