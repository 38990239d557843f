//! What jobs that hang cost the others.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// For what must end, however busy the machine is; and for what does not before it may.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

/// Numbers; 13 hangs for as long as the gate is held.
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
            if *number == 13 {
                count.fetch_add(1, Ordering::SeqCst);
                drop(held.lock());
            }
            assert_ne!(*number, 7, "as it should");
            number * 2
        });
        Self { errands, gate, begun }
    }

    fn run(&mut self, numbers: &[u32]) -> Vec<Result<u32, Late>> {
        let patience = |number: &u32| if *number == 13 { SHORT } else { LONG };
        self.errands.run(numbers.iter().map(|number| (*number, patience(number))).collect(), None)
    }
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
