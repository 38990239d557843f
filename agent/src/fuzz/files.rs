//! What the agent keeps on disk, compressed logs, journals, and the kubelet's answers.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Bytes;
use crate::journal::file::{Journal, Next, Scratch};
use crate::journal::pages::{JournalId, Pages};
use crate::kubelet::socket::frames::Frames;
use crate::kubelet::socket::store::Store as PodStore;
use crate::kubelet::{pods, volumes};
use crate::logs::FileId;
use crate::logs::checkpoint::{Checkpoints, Cut, Entry, FileKey, FileState, State, Store};
use crate::logs::docker_config;
use crate::logs::fs::{LogFile, Stat};
use crate::logs::gz::{GzPool, stated_size};
use crate::logs::ledger::{Row, RowKey};
use crate::logs::proof::Proof;
use sonde_wire::logs::Stream;
use sonde_wire::uid::FileHash;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Option<Vec<u8>>>>);

impl Store for Memory {
    fn load(&mut self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap() = Some(bytes.to_vec());
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(bytes: &[u8]) -> (Memory, Checkpoints, State) {
    let store = Memory(Arc::new(Mutex::new(Some(bytes.to_vec()))));
    let (checkpoints, state) = Checkpoints::open(Box::new(store.clone())).unwrap();
    (store, checkpoints, state)
}

/// A file of positions: what is read from it can be written, and is then read as the same. The first byte says how many
/// payloads there are, which get a good frame; the rest stands behind them as it is.
pub fn positions(data: &[u8]) {
    let (count, mut rest) = data.split_first().map_or((0, data), |(count, rest)| (count % 4, rest));
    let mut bytes = Vec::new();
    for _ in 0..count {
        let Some((len, more)) = rest.split_first() else { break };
        let (payload, more) = more.split_at(usize::from(*len).min(more.len()));
        rest = more;
        bytes.extend_from_slice(b"\xf5SP1");
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes.extend_from_slice(rest);
    let (_, mut checkpoints, state) = open(&bytes);
    assert!(state.damaged <= bytes.len() as u64);
    let entries: Vec<Entry> = state
        .files
        .iter()
        .map(|(key, file)| Entry::File(key.clone(), file.clone()))
        .chain(state.rows.iter().map(|(key, row)| Entry::Row(key.clone(), *row)))
        .chain([Entry::Gaps(state.gaps)])
        .collect();
    let store = Memory::default();
    std::mem::swap(&mut checkpoints, &mut Checkpoints::open(Box::new(store.clone())).unwrap().0);
    assert!(checkpoints.write(&entries, true, Instant::now()));
    let written = store.0.lock().unwrap().clone().unwrap();
    let (_, _, again) = open(&written);
    assert_eq!((again.files, again.rows, again.gaps), (state.files, state.rows, state.gaps));
    assert_eq!(again.damaged, 0);
}

pub fn positions_seeds() -> Vec<Vec<u8>> {
    let key = FileKey { pod_dir: "n_p_u".into(), container: "c".into(), restart: 3, hash: FileHash([7; 10]) };
    let row = RowKey { namespace: "n".into(), pod: "p".into(), container: "c".into() };
    let file = FileState {
        head_len: 40,
        seen: 1 << 33,
        settled: vec![(0, 10), (20, 300)],
        cuts: vec![Cut { offset: 15, stream: Some(Stream::Stderr) }, Cut { offset: 16, stream: None }],
        cutoff: 1,
        salt: 1 << 40,
        proof: Some(Proof { head_len: 4096, head: 1, at: 1 << 33, tail: u32::MAX }),
        name: "0.log.20261120-163501".into(),
        node: Some((2, 3)),
        rules: vec![(0, String::new()), (9, "a rule".into())],
    };
    let some = Row { observed: 10, acked: 4, records: 1, shed: [1], ..Row::default() };
    let entries = [
        Entry::File(key.clone(), file),
        Entry::Row(row.clone(), some),
        Entry::Gaps(2),
        Entry::Begun("/var/log/*.log".into()),
        Entry::Gone(key),
        Entry::Folded(row),
    ];
    let framed = |entries: &[Entry]| {
        let store = Memory::default();
        let (mut checkpoints, _) = Checkpoints::open(Box::new(store.clone())).unwrap();
        assert!(checkpoints.write(entries, true, Instant::now()));
        store.0.lock().unwrap().clone().unwrap()
    };
    let mut seeds: Vec<Vec<u8>> = (1..=entries.len()).map(|n| framed(&entries[..n])).collect();
    // The same as payloads that are framed anew, so that a change of them is read.
    let payloads: Vec<Vec<u8>> = seeds
        .iter()
        .map(|frame| [&[1, u8::try_from(frame.len() - 12).unwrap_or(255)], &frame[12..]].concat())
        .collect();
    seeds.iter_mut().for_each(|seed| seed.insert(0, 0));
    seeds.extend(payloads);
    seeds
}

/// Most of a decompressed text that is looked at.
const MOST: usize = 1 << 20;

/// A compressed log: jumps see the same bytes as going on from the start does, and all that gunzip gives of a good file is there.
pub fn gzip(data: &[u8]) {
    let Some((steps, packed)) = data.split_at_checked(4) else { return };
    let file = Arc::new(Bytes(packed.to_vec()));
    let mut pool = GzPool::new();
    let mut text = Vec::new();
    let step = 1 + usize::from(steps[0]) * 37;
    let mut buffer = vec![0; step];
    while text.len() < MOST {
        let read = pool.read_at(FileId(1), &file, &mut buffer, text.len() as u64).unwrap();
        text.extend_from_slice(&buffer[..read]);
        if read < step {
            break;
        }
    }
    let is_whole = text.len() < MOST && pool.damage(FileId(1)).is_none();
    for jump in &steps[1..] {
        let at = text.len() * usize::from(*jump) / 256;
        let read = pool.read_at(FileId(1), &file, &mut buffer, at as u64).unwrap();
        let wanted = &text[at..(at + step).min(text.len())];
        assert!(buffer[..read].starts_with(wanted), "a jump to {at}");
    }
    let mut head = vec![0; text.len().min(300)];
    let read = GzPool::head(&file, &mut head).unwrap();
    assert_eq!(head[..read], text[..read]);
    let mut theirs = Vec::new();
    let good = flate2::read::MultiGzDecoder::new(packed).take(MOST as u64).read_to_end(&mut theirs).is_ok();
    if good && !packed.is_empty() && is_whole {
        assert_eq!(text, theirs);
    }
    let _ = stated_size(&*file, packed.len() as u64);
}

pub fn gzip_seeds() -> Vec<Vec<u8>> {
    let line = b"2026-11-20T16:35:01.123456789Z stdout F some line\n";
    let member = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    };
    let one = member(&line.repeat(40));
    let two = [member(line), member(b""), member(b"more\n")].concat();
    let padded = [one.as_slice(), &[0; 30]].concat();
    [one, two, padded].iter().map(|packed| [&[9, 200, 3, 100], packed.as_slice()].concat()).collect()
}

/// A journal without its two tables, which nobody reads and which are most of it: its first bytes, and what lies from `base` on.
struct Sparse {
    head: Vec<u8>,
    base: u64,
    rest: Vec<u8>,
}

const HEAD: usize = 272;

impl LogFile for Sparse {
    fn stat(&self) -> io::Result<Stat> {
        Ok(Stat { size: self.base + self.rest.len() as u64, regular: true, ..Stat::default() })
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let len = self.stat()?.size.saturating_sub(offset).min(buffer.len() as u64);
        let len = usize::try_from(len).unwrap();
        buffer[..len].fill(0);
        for (from, bytes) in [(0, &self.head), (self.base, &self.rest)] {
            let (start, end) = (offset.max(from), (offset + len as u64).min(from + bytes.len() as u64));
            if start < end {
                let at = |of: u64, place: u64| usize::try_from(place - of).unwrap();
                buffer[at(offset, start)..at(offset, end)]
                    .copy_from_slice(&bytes[at(from, start)..at(from, end)]);
            }
        }
        Ok(len)
    }
}

/// A journal: reading ends, entries come in order, no more of a field is given than was asked for, and looking for a place and
/// reading on from it gives the entries that reading from the start gives.
pub fn journal(data: &[u8]) {
    let Some((base, rest)) = data.split_first_chunk::<4>() else { return };
    let (head, rest) = rest.split_at(rest.len().min(HEAD));
    let base = u64::from(u32::from_le_bytes(*base)).clamp(HEAD as u64, 64 << 20);
    let file = Sparse { head: head.to_vec(), base, rest: rest.to_vec() };
    let Ok(mut journal) = Journal::open(JournalId(0), file) else { return };
    let (mut pages, mut scratch) = (Pages::default(), Scratch::default());
    let most = 300;
    let mut all = Vec::new();
    let mut steps = 0u64;
    loop {
        steps += 1;
        assert!(steps < 8 * data.len() as u64 + 1000, "it does not end");
        match journal.next(&mut pages).unwrap() {
            Next::End => break,
            Next::Damaged => {}
            Next::Entry(entry, offset) => {
                assert!(all.last().is_none_or(|last| *last < entry.seqnum), "sequence numbers grow");
                all.push(entry.seqnum);
                let mut fields = BTreeMap::<Vec<u8>, u64>::new();
                let give = |name: &[u8], value: &[u8], len: u64| {
                    assert!(value.len() <= most && len >= value.len() as u64);
                    *fields.entry(name.to_vec()).or_default() += len;
                };
                let _ = journal.fields(&mut pages, offset, &mut scratch, |_| most, give).unwrap();
            }
        }
    }
    let middle = all.get(all.len() / 2).copied().unwrap_or(1);
    journal.rewind();
    journal.seek(&mut pages, |entry| entry.seqnum < middle).unwrap();
    while let Next::Entry(..) | Next::Damaged = journal.next(&mut pages).unwrap() {
        steps += 1;
        assert!(steps < 16 * data.len() as u64 + 2000, "it does not end");
    }
}

pub fn journal_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("compact.journal").to_vec(), include_bytes!("regular.journal").to_vec()]
}

/// The kubelet's answers, and Docker's file about a container.
pub fn kubelet(data: &[u8]) {
    if let Ok(picture) = pods::parse(data, "lab-node-1") {
        assert!(picture.pods.iter().all(|pod| !pod.uid.is_empty()));
    }
    let _ = pods::parse(data, "");
    let _ = volumes::parse(data);
    let _ = docker_config::owner(data);
}

pub fn kubelet_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"kind":"PodList","items":[{"metadata":{"name":"web-5d4f8c9b7-x2x9k","namespace":"shop","uid":"468cc3f6","labels":{"app":"web"},"annotations":{"sonde.io/logs":"false"},"ownerReferences":[{"kind":"ReplicaSet","name":"web-5d4f8c9b7","controller":true}]},"spec":{"nodeName":"lab-node-1","hostNetwork":true,"containers":[{"name":"c","image":"i:1","resources":{"limits":{"cpu":"1500m","memory":"1Gi"}}}]},"status":{"phase":"Running","podIP":"10.0.0.1","startTime":"2026-11-20T16:35:01Z","containerStatuses":[{"name":"c","restartCount":2,"containerID":"containerd://4f4f","imageID":"x@sha256:1","ready":true,"state":{"running":{"startedAt":"2026-11-20T16:35:01Z"}}}]}}]}"#,
        r#"{"pods":[{"podRef":{"name":"p","namespace":"n","uid":"u"},"volume":[{"name":"data","capacityBytes":10,"availableBytes":4,"usedBytes":6,"inodes":9,"inodesFree":8,"inodesUsed":1,"pvcRef":{"name":"claim","namespace":"n"}}]}]}"#,
        r#"{"ID":"4f4f","Config":{"Labels":{"io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n","io.kubernetes.pod.uid":"u","io.kubernetes.container.name":"c","annotation.io.kubernetes.container.restartCount":"3","io.kubernetes.docker.type":"container"}}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// A stream of the kubelet's socket, in pieces that the first byte says: what it tells does not depend on them, no pod is without a
/// uid, and every pod is in both pictures.
pub fn pods_socket(data: &[u8]) {
    let (piece, stream) =
        data.split_first().map_or((1, data), |(first, rest)| (usize::from(*first) + 1, rest));
    let read = |piece: usize| {
        let (mut frames, mut store, mut told) = (Frames::default(), PodStore::new("lab-node-1"), Vec::new());
        'all: for piece in stream.chunks(piece) {
            frames.push(piece);
            loop {
                match frames.cut() {
                    Ok(Some(message)) => told.push(store.event(&message)),
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
        }
        (told, store)
    };
    let ((told, store), (whole, _)) = (read(piece), read(usize::MAX));
    assert_eq!(told, whole);
    let (metas, states): (Vec<_>, _) = (store.metas().collect(), store.states());
    assert_eq!(metas.len(), states.len());
    for (meta, state) in metas.iter().zip(&states) {
        assert!(!meta.uid.is_empty() && *meta == pods::meta(state));
    }
}

pub fn pods_socket_seeds() -> Vec<Vec<u8>> {
    let recorded = include_bytes!("../../../tests/fixtures/kubelet/pods-watch.grpc.gz");
    let mut stream = Vec::new();
    flate2::read::GzDecoder::new(&recorded[..]).read_to_end(&mut stream).unwrap();
    let mut frames = Frames::default();
    frames.push(&stream);
    // Each pod on its own is short enough for what a fuzzer changes.
    let mut seeds = vec![b"\x07\0\0\0\0\x02\x08\x04".to_vec()];
    while let Some(message) = frames.cut().unwrap() {
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        seeds.push([&[200, 0][..], &len, &message].concat());
    }
    seeds
}
