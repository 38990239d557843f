use proptest::prelude::*;

use super::*;

fn seen(node: &str, run: i64, number: i64) -> Seen {
    let canary = Canary { node: node.into(), run, number, written_unix_nano: 1_000 };
    Seen { canary, fresh: true, resend: false }
}

fn account(all: &[Seen]) -> Account {
    let (mut account, now) = (Account::default(), Instant::now());
    all.iter().for_each(|seen| account.arrived(seen, now, 2_000));
    account
}

fn numbers(numbers: &[i64]) -> Counts {
    let all: Vec<Seen> = numbers.iter().map(|number| seen("n", 1, *number)).collect();
    account(&all).nodes["n"]
}

#[test]
fn a_number_that_never_comes_is_missing_once_enough_others_have_come() {
    let until = |last: i64| (1..=last).filter(|number| *number != 5).collect::<Vec<_>>();
    assert_eq!(numbers(&until(5 + OUT_OF_ORDER)).missing, 0);
    let counts = numbers(&until(6 + OUT_OF_ORDER));
    assert_eq!(counts, Counts { delivered: 5 + OUT_OF_ORDER as u64, missing: 1, ..Counts::default() });
    assert_eq!(numbers(&until(1000)).missing, 1, "and once only");
}

#[test]
fn what_comes_late_but_comes_is_not_missing_and_what_comes_twice_is_told() {
    let mut swapped: Vec<i64> = (1..100).collect();
    swapped.swap(10, 14);
    assert_eq!(numbers(&swapped), Counts { delivered: 99, ..Counts::default() });
    let mut twice: Vec<Seen> = (1..20).map(|number| seen("n", 1, number)).collect();
    twice.push(Seen { resend: true, ..seen("n", 1, 19) });
    twice.push(seen("n", 1, 1));
    let counts = account(&twice).nodes["n"];
    assert_eq!(counts, Counts { delivered: 19, missing: 0, resent: 1, duplicate: 1 });
}

#[test]
fn a_restart_of_agent_or_collector_is_neither_a_loss_nor_a_duplicate() {
    // The collector begins in the middle of a run; the agent begins another one, and one of the old run comes late.
    let order = [(1, 50), (1, 51), (2, 1), (2, 2), (1, 52), (2, 3)];
    let all: Vec<Seen> = order.iter().map(|(run, number)| seen("n", *run, *number)).collect();
    assert_eq!(account(&all).nodes["n"], Counts { delivered: 6, ..Counts::default() });
}

#[test]
fn after_some_went_by_unseen_counting_begins_anew() {
    let canaries = Canaries::default();
    canaries.arrived(&[seen("n", 1, 1), seen("n", 1, 2)]);
    canaries.begin_anew();
    canaries.arrived(&(90..120).map(|number| seen("n", 1, number)).collect::<Vec<_>>());
    assert_eq!(canaries.lock().nodes["n"], Counts { delivered: 32, ..Counts::default() });
    // Nonsense is no loss of trillions.
    canaries.arrived(&[seen("n", 1, i64::MAX), seen("n", 1, 1)]);
    assert_eq!(canaries.lock().nodes["n"].missing, 0);
}

#[test]
fn a_delay_is_counted_where_it_is_known_and_clocks_that_differ_are_told() {
    let mut account = Account::default();
    let now = Instant::now();
    let second = 1_000_000_000;
    let written = |number, written_unix_nano, fresh| {
        let canary = Canary { node: "n".into(), run: 1, number, written_unix_nano };
        Seen { canary, fresh, resend: false }
    };
    account.arrived(&written(1, 10 * second, true), now, 13 * second);
    account.arrived(&written(2, 20 * second, true), now, 19 * second);
    account.arrived(&written(3, 1, false), now, 30 * second);
    account.arrived(&written(3, 20 * second, true), now, 40 * second);
    assert_eq!(
        (account.ahead, account.delays.iter().sum::<u64>()),
        (1, 2),
        "of two; the third was there before"
    );
    assert!((account.delay_seconds - 3.0).abs() < 1e-9, "{}", account.delay_seconds);
    account.arrived(&written(4, 1, true), now, u64::MAX);
    assert!(account.delay_seconds < 4.0 + LONGEST_S);
}

#[test]
fn nodes_that_a_sender_invents_have_a_bound_and_those_that_are_silent_make_room() {
    let mut account = Account::default();
    let now = Instant::now();
    for node in 0..NODES + 100 {
        account.arrived(&seen(&node.to_string(), 1, 1), now, 2_000);
    }
    for run in 0..100 {
        account.arrived(&seen("0", 2 + run, 1), now, 2_000);
    }
    assert_eq!((account.nodes.len(), account.runs.len(), account.untracked), (NODES, NODES, 200));
    account.arrived(&seen("0", 1, 2), now, 2_000);
    assert_eq!(account.nodes["0"].delivered, 2, "who was there before goes on");
    let later = now + SILENT / 2;
    account.arrived(&seen("0", 1, 3), later, 2_000);
    account.arrived(&seen("late", 1, 1), now + SILENT, 2_000);
    assert_eq!((account.nodes.len(), account.nodes["0"].delivered), (2, 3));
}

#[test]
fn the_page_has_a_row_for_each_node_and_outcome() {
    let canaries = Canaries::default();
    canaries.arrived(&[seen("n", 1, 1)]);
    let mut out = Sink::default();
    canaries.lock().show("es", &mut out);
    assert_eq!(out.rows(), 1 + 4 + 1 + 1);
}

proptest! {
    /// Beside a plain account: all numbers, and what the window lets go.
    #[test]
    fn any_order_of_any_numbers_adds_up(numbers in prop::collection::vec(1..60_i64, 1..200)) {
        let all: Vec<Seen> = numbers.iter().map(|number| seen("n", 1, *number)).collect();
        let account = account(&all);
        let counts = account.nodes["n"];
        prop_assert_eq!(counts.delivered + counts.duplicate, numbers.len() as u64);
        // In numbers' own order, nothing is missing that comes and nothing comes twice.
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let (first, last) = (sorted[0], sorted[sorted.len() - 1]);
        let expected = (first..=last - OUT_OF_ORDER - 1).filter(|n| !sorted.contains(n)).count() as u64;
        let all: Vec<Seen> = sorted.iter().map(|number| seen("n", 1, *number)).collect();
        let in_order = self::account(&all).nodes["n"];
        prop_assert_eq!(in_order, Counts { delivered: sorted.len() as u64, missing: expected, ..Counts::default() });
    }

    #[test]
    fn any_numbers_at_all_are_taken(numbers in prop::collection::vec((any::<i64>(), any::<u64>()), 0..50)) {
        let mut account = Account::default();
        for (number, wall) in numbers {
            account.arrived(&seen("n", 1, number.max(1)), Instant::now(), wall);
        }
    }
}
