//! What a query finds, against a plain scan.

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Take(Vec<Line>),
    Commit,
    NewSlice,
    Reopen,
}

fn line() -> impl Strategy<Value = Line> {
    let word = prop::sample::select(vec![
        "alpha",
        "Beta",
        "GAMMA",
        "ärger",
        "\u{1b}[31mred\u{1b}[0m",
        "\u{fffd}",
        "a-b",
        "10.0.0.1",
        "\"q\"",
        "",
    ]);
    let body = prop::collection::vec(word, 0..5).prop_map(|words| words.join(" "));
    (1u64..40, prop::option::of((0u8..4, 0u64..1 << 40)), 0u8..4, 0u8..25, body)
        .prop_map(|(time, uid, pod, severity, body)| Line { time, uid, pod, severity, body })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => prop::collection::vec(line(), 1..12).prop_map(Op::Take),
        2 => Just(Op::Commit),
        1 => Just(Op::NewSlice),
        1 => Just(Op::Reopen),
    ]
}

fn plain_word(word: &str, body: &str) -> bool {
    let (word, body) = (word.to_lowercase(), body.to_lowercase());
    let joined = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    body.match_indices(&word).any(|(at, _)| {
        !joined(body[..at].chars().next_back()) && !joined(body[at + word.len()..].chars().next())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn a_search_finds_what_a_plain_scan_finds(
        ops in prop::collection::vec(op(), 1..14),
        namespace in prop::option::of(0u8..2), pod in prop::option::of(0u8..4), severity in 0u8..25,
        word in prop::option::of(prop::sample::select(vec!["alpha", "BETA", "Ärger", "red", "b", "10.0.0.1", "a-b", "lpha"])),
        phrase in prop::option::of(prop::sample::select(vec!["pha Be", "GAMMA", "gamma", "\u{fffd} a", " "])),
        bounds in (0u64..40, 0u64..60), limit in 1usize..40, descending: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut writer) = Store::open(dir.path(), options()).unwrap();
        let mut model: Vec<Line> = Vec::new();
        let mut uids = BTreeSet::new();
        let (mut position, mut now) = (0, 10_000);
        for op in ops {
            match op {
                Op::Take(lines) => {
                    position += 1;
                    ingest(&mut writer, &lines, position, now);
                    model.extend(lines.into_iter().filter(|line| line.uid.is_none_or(|uid| uids.insert(uid))));
                }
                Op::Commit => drop(writer.commit(now).unwrap()),
                Op::NewSlice => now += 2_000,
                Op::Reopen => {
                    writer.commit(now).unwrap();
                    drop((store, writer));
                    (store, writer) = Store::open(dir.path(), options()).unwrap();
                }
            }
        }
        let mut filter = Filter { severity, since: bounds.0, until: bounds.1, ..Filter::default() };
        filter.names[2] = namespace.map(|n| format!("ns-{n}"));
        filter.names[3] = pod.map(|n| format!("pod-{n}"));
        let quoted = phrase.map(|phrase| format!("\"{phrase}\""));
        let q = [word.map(str::to_owned), quoted].into_iter().flatten().collect::<Vec<_>>().join(" ");
        filter.needles = Needle::parse(&q).unwrap();
        let expected: Vec<Line> = model.iter().filter(|line| {
            namespace.is_none_or(|n| line.pod % 2 == n) && pod.is_none_or(|n| line.pod == n)
                && line.severity >= severity && (bounds.0..bounds.1).contains(&line.time)
                && word.is_none_or(|word| plain_word(word, &line.body))
                && phrase.is_none_or(|phrase| line.body.contains(phrase))
        }).cloned().collect();
        let mut expected_keys: Vec<_> = expected.iter().map(Line::key).collect();
        expected_keys.sort();
        if descending {
            expected_keys.reverse();
        }
        expected_keys.truncate(limit);
        let order = if descending { Order::Descending } else { Order::Ascending };
        let got: Vec<_> = found(&store, filter.clone(), order, limit).into_iter().map(|(key, _)| key).collect();
        prop_assert_eq!(got, expected_keys);
        let mut got = found(&store, filter.clone(), order, usize::MAX);
        got.sort();
        prop_assert_eq!(got, listed(&expected));
        let count = store.count(filter, || true).unwrap();
        prop_assert_eq!(count.records, expected.len() as u64);
        let mut got = all(&store);
        got.sort();
        prop_assert_eq!(got, listed(&model));
    }
}

#[test]
fn a_query_sees_each_record_once_while_a_commit_moves_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let query = || {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let found = found(&store, Filter::default(), Order::Ascending, usize::MAX);
                let keys: BTreeSet<_> = found.iter().map(|(key, _)| *key).collect();
                assert_eq!(keys.len(), found.len(), "a record twice");
                assert!(
                    found.len() >= last && found.len().is_multiple_of(100),
                    "{} after {last}",
                    found.len()
                );
                last = found.len();
            }
        };
        scope.spawn(query);
        scope.spawn(query);
        for (n, frame) in lines(1, 4000).chunks(100).enumerate() {
            ingest(&mut writer, frame, n as u64 + 1, 1000 + n as u64 * 100);
            if n % 3 == 0 {
                writer.commit(1000 + n as u64 * 100).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(all(&store).len(), 4000);
}

#[test]
fn bodies_of_any_form_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    let huge = "é0 ".repeat(350_000);
    let bodies = ["", " ", "\u{fffd}", "\u{1b}[1m bold", "\0\u{7}\r\n", "💥 ЖЖ", &huge];
    let lines: Vec<Line> =
        bodies.iter().enumerate().map(|(n, body)| Line::new(n as u64 + 1, 1, n as u64, body)).collect();
    ingest(&mut writer, &lines, 1, 1000);
    assert_eq!(all(&store), listed(&lines));
    writer.commit(1000).unwrap();
    assert_eq!(all(&store), listed(&lines));
}

#[test]
fn a_query_lets_blocks_go_when_too_many_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.commit_bytes = 64 << 20;
    let (store, mut writer) = Store::open(dir.path(), options).unwrap();
    // 250 files of one block of 110 KiB each, all over the same time: 27 MiB open at once.
    let body = "x".repeat(1000);
    let mut expected = 0;
    for file in 0..250 {
        let lines: Vec<Line> =
            (0..110).map(|n| Line::new(n * 1000 + u64::from(file), file, n, &body)).collect();
        expected += lines.len();
        ingest(&mut writer, &lines, 1, 1000);
    }
    writer.commit(1000).unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let mut keys: Vec<_> =
            found(&store, Filter::default(), order, usize::MAX).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), expected);
        if order == Order::Descending {
            keys.reverse();
        }
        assert!(keys.is_sorted());
    }
}

#[test]
fn a_query_that_rests_holds_no_blocks_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.commit_bytes = 64 << 20;
    let (store, mut writer) = Store::open(dir.path(), options).unwrap();
    let body = "x".repeat(1000);
    for file in 0..40 {
        let lines: Vec<Line> =
            (0..100).map(|n| Line::new(n * 1000 + u64::from(file), file, n, &body)).collect();
        ingest(&mut writer, &lines, 1, 1000);
    }
    writer.commit(1000).unwrap();
    let expected = found(&store, Filter::default(), Order::Ascending, usize::MAX);
    let mut query = store.query(Filter::default(), Order::Ascending);
    let (mut got, mut open) = (Vec::new(), 0);
    loop {
        let take = |_: &Origin, row: &Row<'_>| got.push(row.key());
        match query.step(take) {
            Step::End => break,
            Step::Record if got.len() % 500 == 0 => {
                open = open.max(query.open_bytes());
                query.rest();
                assert_eq!(query.open_bytes(), 0);
            }
            Step::Record | Step::Read => {}
        }
    }
    assert!(open > 3 << 20, "{open}");
    assert!(got.iter().eq(expected.iter().map(|(key, _)| key)));
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_is_told_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut writer) = Store::open(dir.path(), options()).unwrap();
    ingest(&mut writer, &lines(0, 5), 1, 1000);
    let mut follower = store.follow();
    ingest(&mut writer, &lines(1, 5), 2, 1000);
    let Followed::Chunk(chunk) = follower.next().await else { panic!("missed") };
    assert_eq!((chunk.records, chunk.origin.names[3].as_deref()), (5, Some("pod-1")));
    let body = "y".repeat(100_000);
    for n in 0..200 {
        ingest(&mut writer, &[Line::new(n, 2, n, &body)], 3, 1000);
    }
    let Followed::Missed(missed) = follower.next().await else { panic!("not missed") };
    let mut got = 0;
    while let Ok(Followed::Chunk(chunk)) =
        tokio::time::timeout(Duration::from_millis(100), follower.next()).await
    {
        got += u64::from(chunk.records);
    }
    assert!(missed > 0 && got > 0 && missed + got == 200, "{missed} {got}");
}
