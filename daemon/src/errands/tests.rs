//! What jobs that hang cost the others.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// For what must end, however busy the machine is; and for what does not before it may.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

/// Numbers; 13 and those from 100 on hang for as long as the gate is held.
struct Bench {
    errands: Errands<u32, u32>,
    gate: Arc<Mutex<()>>,
    begun: Arc<AtomicU32>,
}

impl Bench {
    fn new(most_stuck: usize) -> Self {
        let (gate, begun) = (Arc::new(Mutex::new(())), Arc::new(AtomicU32::new(0)));
        let (held, count) = (Arc::clone(&gate), Arc::clone(&begun));
        let errands = Errands::new("test", most_stuck, move |number| {
            if hangs(*number) {
                count.fetch_add(1, Ordering::SeqCst);
                drop(held.lock());
            }
            assert_ne!(*number, 7, "as it should");
            number * 2
        });
        Self { errands, gate, begun }
    }

    fn run(&mut self, numbers: &[u32]) -> Vec<Result<u32, Late>> {
        let patience = |number: &u32| if hangs(*number) { SHORT } else { LONG };
        self.errands.run(numbers.iter().map(|number| (*number, patience(number))).collect(), None)
    }

    /// With time for those that hang where they are held.
    fn run_unheld(&mut self, numbers: &[u32]) -> Vec<Result<u32, Late>> {
        self.errands.run(numbers.iter().map(|number| (*number, LONG)).collect(), None)
    }
}

fn hangs(number: u32) -> bool {
    number == 13 || number >= 100
}

#[test]
fn a_job_that_hangs_costs_its_patience_once_and_no_other_job_its_answer() {
    let mut bench = Bench::new(4);
    let gate = Arc::clone(&bench.gate);
    let held = gate.lock().unwrap();
    assert_eq!(bench.run(&[1, 13, 2]), [Ok(2), Err(Late::NotInTime), Ok(4)]);
    // Its worker may begin late.
    while bench.begun.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    for _ in 0..3 {
        assert_eq!(bench.run(&[13, 3, 4]), [Err(Late::Hangs), Ok(6), Ok(8)]);
    }
    assert_eq!(bench.begun.load(Ordering::SeqCst), 1, "it is not begun again while it hangs");
    drop(held);
    let start = Instant::now();
    while bench.errands.run(vec![(13, LONG)], None) != [Ok(26)] {
        assert!(start.elapsed() < LONG, "it never came back");
        std::thread::sleep(SHORT);
    }
    assert_eq!(bench.run(&[1]), [Ok(2)]);
}

#[test]
fn no_more_threads_hang_than_may() {
    let mut bench = Bench::new(1);
    let gate = Arc::clone(&bench.gate);
    let _held = gate.lock().unwrap();
    assert_eq!(bench.run(&[13, 1, 2]), [Err(Late::NotInTime), Err(Late::NotBegun), Err(Late::NotBegun)]);
    assert_eq!(bench.run(&[1]), [Err(Late::NotBegun)]);
}

#[test]
fn however_many_hang_those_that_do_not_keep_their_answers() {
    let mut bench = Bench::new(2);
    let gate = Arc::clone(&bench.gate);
    assert_eq!(bench.run(&[1, 2]), [Ok(2), Ok(4)]);
    let held = gate.lock().unwrap();
    for round in 0..4 {
        let answers = bench.run(&[100, 101, 102, 1, 103, 2, 3]);
        let (first, later) = (Late::NotInTime, Late::Hangs);
        let hang = if round == 0 { first } else { later };
        assert_eq!(answers[..2], [Err(hang), Err(hang)], "{round}");
        assert_eq!(
            answers[2..],
            [102, 1, 103, 2, 3].map(|n| if n < 3 { Ok(n * 2) } else { Err(Late::NotBegun) })
        );
    }
    drop(held);
    let start = Instant::now();
    while bench.run_unheld(&[100, 101, 102, 1, 103, 2, 3]) != [200, 202, 204, 2, 206, 4, 6].map(Ok) {
        assert!(start.elapsed() < LONG, "they never came back");
        std::thread::sleep(SHORT);
    }
}

#[test]
fn twice_as_many_hang_at_most_where_all_came_back_before() {
    let mut bench = Bench::new(2);
    let gate = Arc::clone(&bench.gate);
    let all: Vec<u32> = (100..120).collect();
    assert!(bench.run_unheld(&all).iter().all(Result::is_ok));
    bench.begun.store(0, Ordering::SeqCst);
    let held = gate.lock().unwrap();
    let of =
        |answers: &[Result<u32, Late>], late| answers.iter().filter(|answer| **answer == Err(late)).count();
    let answers = bench.run(&all);
    assert_eq!((of(&answers, Late::NotInTime), of(&answers, Late::NotBegun)), (4, 16));
    for _ in 0..3 {
        let answers = bench.run(&all);
        assert_eq!((of(&answers, Late::Hangs), of(&answers, Late::NotBegun)), (4, 16));
    }
    assert!(bench.begun.load(Ordering::SeqCst) <= 4);
    drop(held);
}

#[test]
fn the_same_job_twice_holds_one_thread() {
    let mut bench = Bench::new(4);
    let gate = Arc::clone(&bench.gate);
    let held = gate.lock().unwrap();
    assert_eq!(bench.run(&[13, 1, 13, 1]), [Err(Late::NotInTime), Ok(2), Err(Late::Hangs), Ok(2)]);
    while bench.begun.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(bench.run(&[13, 13]), [Err(Late::Hangs), Err(Late::Hangs)]);
    assert_eq!(bench.begun.load(Ordering::SeqCst), 1);
    drop(held);
}

#[test]
fn what_is_not_done_by_the_end_is_said() {
    let mut bench = Bench::new(4);
    let gate = Arc::clone(&bench.gate);
    let held = gate.lock().unwrap();
    let jobs = vec![(13, LONG), (1, LONG)];
    let answers = bench.errands.run(jobs, Some(Instant::now() + SHORT));
    assert_eq!(answers, [Err(Late::NotInTime), Err(Late::NotBegun)]);
    drop(held);
}

#[test]
fn a_job_that_panics_is_said_and_the_rest_is_done() {
    let mut bench = Bench::new(4);
    assert_eq!(bench.run(&[1, 7, 2]), [Ok(2), Err(Late::Panicked), Ok(4)]);
    assert_eq!(bench.run(&[]), []);
    assert_eq!(bench.run(&[5]), [Ok(10)]);
}

#[test]
fn who_asks_may_do_something_else_meanwhile() {
    let mut bench = Bench::new(4);
    let round = bench.errands.begin(vec![(1, LONG), (2, LONG)]);
    std::thread::sleep(SHORT);
    assert_eq!(bench.errands.finish(round, None), [Ok(2), Ok(4)]);
}
