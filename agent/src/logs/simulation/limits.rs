//! Limits on the simulated node: what is stored and what is shed are all there is, and no line is both, whenever the process
//! dies.

use proptest::prelude::*;
use sonde_daemon::units::Size;

use super::{Step, World, Writer, ruled_steps, rules, steps, take};
use crate::config::{Limits, Logs, ReadExisting};

fn run(mut steps: Vec<Step>, limits: Limits, rule: usize) {
    // What is cut away was perhaps neither stored nor shed.
    steps.retain(|step| !matches!(step, Step::Truncate { .. }));
    let config = Logs { read_existing: ReadExisting::All, limits, multiline: rules(rule), ..Logs::default() };
    let mut world = World::with(config, 4);
    let mut writers: Vec<Writer> = (0..3).map(Writer::new).collect();
    take(&mut world, &mut writers, steps);
    assert_eq!(world.lost(), 0);
    for writer in &writers {
        let mut bytes = (0, 0);
        let lines = writer.lines.iter().flatten();
        let bodies = [world.bodies(&writer.pod, "stdout"), world.bodies(&writer.pod, "stderr")].concat();
        let bodies: Vec<&str> = bodies.iter().flat_map(|body| body.split('\n')).collect();
        for line in lines {
            let times = bodies.iter().filter(|body| **body == line).count();
            assert!(times <= 1, "stored {times} times");
            if times == 1 { bytes.0 += writer.bytes[line] } else { bytes.1 += writer.bytes[line] }
        }
        let row = world.core.ledger.rows().find(|(key, _)| key.pod == writer.pod).map(|(_, row)| *row);
        let row = row.unwrap_or_default();
        assert_eq!((row.acked, row.shed[0], row.pending()), (bytes.0, bytes.1, 0), "{}", writer.pod);
    }
}

#[test]
fn a_line_of_several_entries_that_is_settled_ends_a_record_at_its_end_so_that_limits_measure_in_the_same_order()
 {
    let write = |stderr, fragments, len| Step::Write { container: 0, stderr, fragments, len };
    let steps = vec![
        write(false, 1, 0),
        write(true, 2, 228),
        write(false, 0, 107),
        write(false, 2, 0),
        Step::Turn { millis: 0 },
        Step::Turn { millis: 525 },
        Step::Turn { millis: 1475 },
        Step::Accept { which: 2, answered: true },
        Step::Accept { which: 2, answered: false },
        Step::Rule { which: 0, stopped: false },
    ];
    run(steps, Limits { per_container: Size(88), per_namespace: Size(0) }, 1);
}

#[test]
fn a_rule_that_a_killed_process_could_not_write_holds_for_the_next_one() {
    let write = |fragments, len| Step::Write { container: 1, stderr: false, fragments, len };
    let other = |container, fragments, len| Step::Write { container, stderr: false, fragments, len };
    let steps = vec![
        write(0, 0),
        Step::Rotate { container: 1, compress: false },
        other(2, 0, 15),
        other(0, 1, 26),
        other(2, 0, 228),
        other(2, 2, 129),
        Step::Turn { millis: 0 },
        other(0, 2, 143),
        Step::Full { full: true },
        other(2, 1, 274),
        write(1, 0),
        write(2, 0),
        other(0, 2, 157),
        write(0, 0),
        Step::Turn { millis: 0 },
        other(0, 2, 39),
        other(0, 2, 256),
        Step::Turn { millis: 0 },
        other(0, 0, 0),
        Step::Accept { which: 0, answered: true },
        Step::Accept { which: 0, answered: true },
        other(0, 0, 177),
        Step::Accept { which: 0, answered: false },
        other(0, 0, 286),
        Step::Full { full: false },
        Step::Restart,
        Step::Turn { millis: 0 },
        Step::Restart,
    ];
    run(steps, Limits { per_container: Size(0), per_namespace: Size(137) }, 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]
    #[test]
    fn what_a_limit_sheds_was_never_stored_and_what_was_stored_is_never_shed(
        steps in prop_oneof![steps(), ruled_steps()],
        rule in prop_oneof![Just(0usize), 0usize..6],
        per_container in prop_oneof![Just(0u64), 30u64..200],
        per_namespace in prop_oneof![Just(0u64), 60u64..400],
    ) {
        run(steps, Limits { per_container: Size(per_container), per_namespace: Size(per_namespace) }, rule);
    }
}
