//! Compressed rotated files.

use std::io::{Read, Write};

use super::{LIVE, entry, full, pending, world};
use crate::config::{Logs, MultilineRule, ReadExisting};
use crate::logs::simulation::World;

#[test]
fn a_half_read_file_that_was_compressed_while_the_agent_was_down_resumes_at_its_offset() {
    let mut world = world();
    for line in 0..50 {
        world.disk.append(LIVE, full(line, &format!("{line}")).as_bytes());
    }
    world.turn(300);
    world.turn(300);
    assert!(!world.unsettled.is_empty());
    world.accept(0, true);
    world.core.finish(world.now.mono);
    let acked = world.got.len();
    world.disk.rename(LIVE, &format!("{LIVE}.20261120-163502"));
    world.disk.gzip(&format!("{LIVE}.20261120-163502"));
    world.disk.remove(&format!("{LIVE}.20261120-163502"));
    world.disk.append(LIVE, full(59, "new").as_bytes());
    world.restart();
    let sent_before = world.order.len();
    world.drain();
    let expected: Vec<String> = (0..50).map(|line| format!("{line}")).chain(["new".to_owned()]).collect();
    assert_eq!(world.bodies("pod", "stdout"), expected);
    assert_eq!(world.order.len() - sent_before, 51 - acked);
    assert_eq!(world.lost(), 0);
    assert_eq!(world.core.snapshot().compressed_resumes, 1);
}

#[test]
fn a_file_that_was_found_empty_and_compressed_while_every_slot_was_taken_is_read_once() {
    let mut world = world();
    // Every slot is taken by another container.
    for line in 0..100 {
        world.disk.append("ns_busy_uid0/app/0.log", full(line % 60, &"b".repeat(100)).as_bytes());
    }
    for _ in 0..20 {
        world.turn(50);
    }
    world.disk.append(LIVE, b"");
    world.turn(1100);
    world.disk.append(LIVE, format!("{}{}", full(1, "one"), entry(2, "stdout", "P", "ab")).as_bytes());
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, entry(3, "stdout", "F", "cd").as_bytes());
    world.turn(1100);
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "abcd"]);
    let sent = world.order.iter().filter(|uid| world.got[*uid].pod == "pod").count();
    assert_eq!(sent, 2, "each record was sent once");
}

#[test]
fn a_last_line_without_a_newline_in_a_compressed_file_is_shipped_once() {
    let mut world = world();
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, format!("{}2026-11-20T16:35:02.0Z stdout F torn", full(1, "one")).as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.drain();
    let mut bodies = world.bodies("pod", "stdout");
    bodies.sort();
    assert_eq!(bodies, ["one", "three", "torn"]);
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    assert_eq!(world.core.snapshot().compressed_resumes, 0, "it was read from its start");
    world.core.finish(world.now.mono);
    world.restart();
    world.drain();
    assert_eq!(world.order.len(), 3);
}

#[test]
fn a_compressed_file_that_is_shorter_than_its_file_was_costs_what_it_does_not_hold_and_no_more() {
    let mut world = world();
    let (one, torn) = (full(1, "one"), "2026-11-20T16:35:02.0Z stdout F torn");
    world.disk.append(LIVE, one.as_bytes());
    world.drain();
    world.disk.append(LIVE, format!("{torn}{}", "-".repeat(100)).as_bytes());
    world.turn(1100);
    world.core.finish(world.now.mono);
    let old = format!("{LIVE}.20261120-163502");
    world.disk.append(&old, format!("{one}{torn}").as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.remove(LIVE);
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["one", "torn"]);
    assert_eq!((world.lost(), pending(&world)), (100, 0));
}

#[test]
fn a_file_known_by_an_unfinished_first_line_is_known_again_when_it_is_compressed() {
    let mut world = world();
    world.disk.append(LIVE, b"an unfinished first line");
    world.drain();
    world.disk.append(LIVE, b" and its end\n");
    world.drain();
    let old = format!("{LIVE}.20261120-163502");
    world.disk.rename(LIVE, &old);
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.drain();
    let mut bodies: Vec<_> = world.got.values().map(|got| got.body.as_str()).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, [" and its end", "an unfinished first line", "three"]);
}

const OLD: &str = "ns_pod_uid/app/0.log.20261120-163502.gz";

/// Lines that do not compress away, so that a damage in the middle leaves many before it.
fn noise(lines: u32) -> Vec<String> {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:x}", seed >> 16)
    };
    (0..lines).map(|line| full(line % 60, &[next(), next(), next(), next()].concat())).collect()
}

fn compressed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// What can be decoded, byte by byte.
fn decodable(bytes: &[u8]) -> Vec<u8> {
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    let (mut out, mut byte) = (Vec::new(), [0]);
    while decoder.read(&mut byte).is_ok_and(|read| read == 1) {
        out.push(byte[0]);
    }
    out
}

fn observed(world: &World) -> u64 {
    world.core.ledger.rows().map(|(_, row)| row.observed).sum()
}

#[test]
fn a_damaged_compression_costs_only_what_cannot_be_decoded() {
    let text = noise(4000);
    let whole = compressed(&text.concat());
    // Bytes of no sense in the middle; the same and a size of no sense; an end that is missing; a checksum that is wrong.
    for damage in 0..4 {
        let mut bytes = whole.clone();
        let (middle, len) = (bytes.len() / 2, bytes.len());
        match damage {
            0 | 1 => {
                // Not each nonsense is one to a decoder.
                let damaged = (middle..len).step_by(7).map(|at| {
                    let mut bytes = whole.clone();
                    bytes[at..at + 4].fill(0xff);
                    bytes
                });
                bytes = damaged
                    .into_iter()
                    .find(|bytes| decodable(bytes).len() + 1000 < text.concat().len())
                    .unwrap();
                if damage == 1 {
                    bytes[len - 4..].copy_from_slice(&u32::try_from(500 * len).unwrap().to_le_bytes());
                }
            }
            2 => bytes.truncate(middle),
            _ => bytes[len - 8] ^= 1,
        }
        let decodable = decodable(&bytes);
        let lines = decodable.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines > 1500, "{lines}");
        let mut world = world();
        world.disk.append(OLD, &bytes);
        world.disk.append(LIVE, full(59, "new").as_bytes());
        for _ in 0..20 {
            world.drain();
        }
        let mut shipped: Vec<_> = world.got.values().map(|got| got.body.clone()).collect();
        assert!(shipped.contains(&"new".to_owned()));
        shipped.sort_unstable();
        let whole_lines =
            text[..lines].iter().filter(|line| decodable.windows(line.len()).any(|at| at == line.as_bytes()));
        for line in whole_lines.take(1500) {
            assert!(shipped.binary_search(&line[40..line.len() - 1].to_owned()).is_ok(), "{damage}: {line}");
        }
        let rest = observed(&world) - (decodable.len() + full(59, "new").len()) as u64;
        assert_eq!((world.lost(), pending(&world)), (rest, 0), "{damage}");
        assert!(rest <= bytes.len() as u64, "{rest}");
        assert_eq!(rest > 0, damage < 2, "{damage}: {rest}");
        assert_eq!(world.core.snapshot().set_aside, 1);
        world.core.finish(world.now.mono);
        let (records, before) = (world.order.len(), observed(&world));
        world.restart();
        world.drain();
        assert!(world.unsettled.is_empty());
        assert_eq!((world.order.len(), observed(&world), pending(&world)), (records, before, 0));
    }
}

#[test]
fn what_stands_behind_the_last_member_is_ignored_and_all_members_are_read() {
    let text = noise(40);
    for behind in [vec![], vec![0; 1000], b"garbage".to_vec(), vec![0x1f]] {
        let mut world = world();
        let bytes = [compressed(&text[..20].concat()), compressed(&text[20..].concat()), behind].concat();
        world.disk.append(OLD, &bytes);
        world.drain();
        assert_eq!(world.order.len(), 40);
        assert_eq!((world.lost(), pending(&world), world.core.snapshot().set_aside), (0, 0, 0));
        assert_eq!(observed(&world), text.concat().len() as u64);
        world.core.finish(world.now.mono);
        world.restart();
        world.drain();
        assert_eq!((world.order.len(), observed(&world)), (40, text.concat().len() as u64));
        assert_eq!(world.resent_unmarked, 0);
    }
}

#[test]
fn a_compressed_file_of_which_nothing_can_be_decoded_is_said_once_and_holds_nobody_up() {
    let mut world = world();
    world.disk.append(LIVE, full(1, "one").as_bytes());
    world.turn(1100);
    world.turn(1100);
    world.unsettled.clear();
    // Read, not acknowledged; then compressed to nothing of use while the agent is down.
    world.disk.rename(LIVE, OLD);
    world.disk.corrupt(OLD);
    world.disk.append(LIVE, full(3, "three").as_bytes());
    world.restart();
    world.drain();
    assert_eq!(world.bodies("pod", "stdout"), ["three"]);
    assert_eq!((world.lost(), pending(&world)), (full(1, "one").len() as u64, 0));
    assert_eq!(world.core.snapshot().set_aside, 1);
}

/// Lines that hardly compress, `bytes` of them.
fn dense(seed: u64, bytes: usize) -> String {
    let (mut state, mut text) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, String::new());
    for second in 0.. {
        if text.len() >= bytes {
            break;
        }
        let mut body = String::new();
        for _ in 0..12 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            body.push_str(&format!("{state:016x}"));
        }
        text.push_str(&full(second % 60, &body));
    }
    text
}

/// A container with a compressed file of `text` and one line behind it; the compressed size.
fn rotated(world: &World, pod: &str, text: &str) -> u64 {
    let path = format!("ns_{pod}_uid{pod}/app/0.log");
    let old = format!("{path}.20261120-163502");
    world.disk.append(&old, text.as_bytes());
    world.disk.gzip(&old);
    world.disk.remove(&old);
    world.disk.append(&path, full(59, "live").as_bytes());
    world.disk.read(&format!("{old}.gz")).len() as u64
}

#[test]
fn compressed_files_of_many_containers_are_each_decoded_about_once_and_hold_no_other_up() {
    let mut world = world();
    let mut size = 0;
    for pod in 0..5 {
        size += rotated(&world, &format!("p{pod}"), &dense(pod, 1 << 20));
    }
    world.disk.append("ns_other_uid/app/0.log", full(0, "hello").as_bytes());
    let mut decoded = None;
    for _ in 0..30_000 {
        world.turn(1);
        for _ in 0..world.unsettled.len() {
            world.accept(0, true);
        }
        if decoded.is_none() && !world.bodies("other", "stdout").is_empty() {
            decoded = Some(world.disk.taken());
        }
    }
    for pod in 0..5 {
        assert_eq!(world.bodies(&format!("p{pod}"), "stdout").last().map(String::as_str), Some("live"));
    }
    assert_eq!((world.lost(), pending(&world)), (0, 0));
    // A few kilobytes of each are read for what identifies it; more than that is a second decoding.
    let taken = world.disk.taken();
    assert!(taken < size * 3 / 2, "{taken} bytes were read of {size}");
    assert!(decoded.is_some_and(|taken| taken < size / 2), "the other line came after {decoded:?} of {size}");
}

#[test]
fn a_compressed_file_that_was_read_is_not_decoded_again_while_the_next_one_grows() {
    let mut world = world();
    let size = rotated(&world, "pod", &dense(7, 200 << 10));
    for _ in 0..120 {
        world.turn(50);
        while !world.unsettled.is_empty() {
            world.accept(0, true);
            world.turn(0);
        }
    }
    assert_eq!(world.bodies("pod", "stdout").last().map(String::as_str), Some("live"));
    let before = world.disk.taken();
    for line in 0..40 {
        world.disk.append("ns_pod_uidpod/app/0.log", full(line, "more").as_bytes());
        world.turn(100);
    }
    let taken = world.disk.taken() - before;
    assert!(taken < size, "{taken} bytes were read to see 40 short lines, the compressed file has {size}");
}

#[test]
fn a_compressed_file_with_a_rare_stream_is_decoded_a_few_times_and_not_once_for_each_record_of_it() {
    let rule = MultilineRule { start: "^#".into(), max_lines: 4, ..MultilineRule::default() };
    for multiline in [vec![], vec![rule]] {
        let is_ruled = !multiline.is_empty();
        let config = Logs { read_existing: ReadExisting::All, multiline, ..Logs::default() };
        let mut world = World::with(config, 4);
        // Further apart than a decoder's window goes back.
        let (mut text, mut expected) = (String::new(), Vec::new());
        for record in 0..8 {
            let (one, two) = (format!("#{record}"), format!(" of {record}"));
            let (tag, between) = if is_ruled { ("F", "\n") } else { ("P", "") };
            text += &(entry(1, "stderr", tag, &one) + &dense(2 * record + 1, 560 << 10));
            text += &(entry(1, "stderr", "F", &two) + &dense(2 * record + 2, 10 << 10));
            expected.push(one + between + &two);
        }
        text += &entry(1, "stderr", "F", "#last");
        let size = rotated(&world, "pod", &text);
        for _ in 0..30_000 {
            world.turn(1);
            for _ in 0..world.unsettled.len() {
                world.accept(0, true);
            }
            if world.bodies("pod", "stdout").last().is_some_and(|body| body.ends_with("live")) {
                break;
            }
        }
        let taken = world.disk.taken();
        // Once to read it, once to read records again; and once for what is open at its end, which the clock ends.
        let times = if is_ruled { 3 } else { 2 };
        assert!(2 * taken < size * (2 * times + 1), "{taken} bytes were read of {size}");
        world.drain();
        assert_eq!(world.bodies("pod", "stderr")[..8], expected);
        assert_eq!((world.lost(), pending(&world)), (0, 0));
    }
}
