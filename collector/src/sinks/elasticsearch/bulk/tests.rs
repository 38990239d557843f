//! Bodies and names.

use std::io::Read;

use bytes::Bytes;
use sonde_wire::view::LogsRequest;

use super::*;
use crate::config::{DataStream, Layout};
use crate::queue::Position;
use crate::store::tests::{Line, request};

fn unit(first: usize, lines: &[Line]) -> Unit {
    Unit {
        signal: crate::queue::Signal::Logs,
        position: Position { segment: 0xabc, offset: 4096 },
        received_unix_nano: 5_000_000,
        bytes: Bytes::from(request(lines)),
        first,
        records: lines.len(),
        came: None,
        resend: false,
    }
}

fn lines(count: u64) -> Vec<Line> {
    (0..count).map(|n| Line::new(1_700_000_000_000_000_000 + n, 1, n, "a line of text")).collect()
}

fn read(bulk: &Bulk) -> Vec<serde_json::Value> {
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bulk.body[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), bulk.bytes);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn pieces_stay_within_their_bounds_and_hold_every_open_record_once() {
    let units = [unit(0, &lines(30)), unit(30, &lines(20))];
    let mut states = vec![State::Open; 50];
    states[3] = State::Delivered;
    states[31] = State::InDoubt;
    states[49] = State::Refused;
    let writer = Writer::new(Layout::Ecs, &DataStream::default());
    for piece in [
        Piece { bytes: 2000, documents: 100 },
        Piece { bytes: 1 << 20, documents: 7 },
        Piece { bytes: 1, documents: 9 },
    ] {
        let (mut from, mut all) = (0, Vec::new());
        while let Some(bulk) = encode(&units, &states, from, piece, &writer, "c") {
            assert!(bulk.bytes <= piece.bytes || bulk.records.len() == 1);
            assert!(bulk.records.len() <= piece.documents);
            let text = read(&bulk);
            assert_eq!(text.len(), 2 * bulk.records.len());
            for ((action, document), id) in
                text.iter().step_by(2).zip(text.iter().skip(1).step_by(2)).zip(&bulk.ids)
            {
                assert_eq!(action["create"]["_id"], id.as_str());
                assert_eq!(document["message"], "a line of text");
            }
            from = bulk.records[bulk.records.len() - 1] + 1;
            all.extend(bulk.records);
        }
        let expected: Vec<usize> = (0..49).filter(|record| *record != 3).collect();
        assert_eq!(all, expected);
    }
}

#[test]
fn a_name_is_the_milliseconds_and_the_uid_and_without_a_stamp_of_the_runtimes_the_uid_alone() {
    let mut all = lines(2);
    all[1].uid = None;
    let unit = unit(0, &all);
    let names: Vec<String> = LogsRequest::trusted(&unit.bytes)
        .resources()
        .flat_map(|resource| resource.scopes())
        .flat_map(|scope| scope.records())
        .enumerate()
        .map(|(number, record)| id(&record, &unit, number, "c0ffee"))
        .collect();
    assert_eq!(names[0], format!("018bcfe5680001{}{:012x}", "5a".repeat(9), 0));
    assert_eq!(names[0].len(), 44);
    assert_eq!(names[1], "018bcfe56800-c0ffee-abc-1000-1", "its place in the queue");
    all[0].time = 0;
    let again = self::unit(0, &all);
    let record = LogsRequest::trusted(&again.bytes).resources().next().unwrap();
    let record = record.scopes().next().unwrap();
    let name = id(&record.records().next().unwrap(), &again, 0, "c0ffee");
    assert!(name.starts_with("00000000000001"), "{name}: the time of reading is another at the next reading");
}
