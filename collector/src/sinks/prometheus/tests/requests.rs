//! What a batch becomes, however it is cut.

use proptest::prelude::*;

use super::super::write::{Memory, next};
use super::*;
use crate::deliver::batch::{State, Unit};
use crate::queue::Position;

/// Frames of points, each of a series and with a value that no other has.
fn units(frames: &[Vec<u8>]) -> Vec<Unit> {
    let (mut units, mut first) = (Vec::new(), 0);
    for (at, frame) in frames.iter().enumerate() {
        let point = |(n, series): (usize, &u8)| {
            let number = (first + n) as u64;
            (format!("s{series}"), i64::try_from(number).unwrap(), 1_000_000 + number)
        };
        let points: Vec<_> = frame.iter().enumerate().map(point).collect();
        units.push(Unit {
            signal: Signal::Metrics,
            position: Position { segment: 1, offset: at as u64 },
            received_unix_nano: u64::MAX,
            bytes: request(&points).into(),
            first,
            records: points.len(),
            came: None,
            resend: false,
        });
        first += points.len();
    }
    units
}

/// The series of a request, with their samples.
fn content(body: &Bytes) -> Vec<(String, f64)> {
    let message = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    let series = WriteRequest::decode(&message[..]).unwrap().timeseries;
    let of = |series: &TimeSeries| {
        let text = shown(&series.encode_to_vec());
        (text.split(' ').next().unwrap().to_owned(), series.samples[0].value)
    };
    series.iter().map(of).filter(|(name, _)| !name.starts_with("target_info")).collect()
}

proptest! {
    #[test]
    fn however_a_batch_is_cut_each_point_goes_once_in_order_and_a_series_once_a_request(
        frames in prop::collection::vec(prop::collection::vec(0..5_u8, 0..12), 0..6),
        pieces in prop::collection::vec((1..400_usize, 1..8_usize), 1..6),
        refused in prop::collection::hash_set(0..40_usize, 0..4),
    ) {
        let units = units(&frames);
        let series: Vec<u8> = frames.concat();
        let (memory, mut states) = (Memory::default(), vec![State::Open; series.len()]);
        let mut sent: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for turn in 0.. {
            let (bytes, points) = pieces[turn % pieces.len()];
            let piece = Piece { bytes, points };
            let made = next(&memory, &units, &states, &HashSet::new(), piece, &[]);
            prop_assert!(made.left_out.is_empty());
            if made.points.is_empty() {
                break;
            }
            // Its answer was lost, and so was the process: what is made again begins with the same; where it ends may
            // differ by the room that a `target_info` takes.
            let again = next(&Memory::default(), &units, &states, &HashSet::new(), piece, &[]);
            let both = again.points.len().min(made.points.len());
            prop_assert_eq!(&again.points[..both], &made.points[..both]);
            let samples = content(&made.body);
            prop_assert_eq!(samples.len(), made.points.len());
            prop_assert_eq!(samples.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len(), samples.len());
            prop_assert!(made.points.len() <= points);
            // A `target_info` comes on top.
            prop_assert!(made.points.len() == 1 || made.bytes <= bytes + 100);
            if made.points.len() > 1 && made.points.iter().any(|point| refused.contains(point)) {
                let alone = Piece { bytes: 1, points: 1 };
                let first = next(&memory, &units, &states, &HashSet::new(), alone, &[]);
                prop_assert_eq!(&first.points, &made.points[..1]);
                states[first.points[0]] = State::Refused;
                continue;
            }
            for (point, (name, value)) in made.points.iter().zip(samples) {
                states[*point] = State::Delivered;
                sent.entry(name).or_default().push(value);
            }
        }
        prop_assert!(states.iter().all(|state| !state.is_open()));
        let delivered = states.iter().filter(|state| **state == State::Delivered).count();
        prop_assert_eq!(sent.values().map(Vec::len).sum::<usize>(), delivered);
        for values in sent.values() {
            prop_assert!(values.windows(2).all(|two| two[0] < two[1]), "{:?}", values);
        }
    }
}
