use sonde_wire::logs::Stream;
use sonde_wire::uid::{FileHash, RecordUid};

use super::*;

#[test]
fn a_request_whose_records_were_taken_back_is_not_due() {
    let (sender, _batches) = mpsc::channel(1);
    let mut outbox = Outbox::new(1000, Duration::from_secs(1), 1, sender);
    let now = Instant::now();
    outbox.open(&AttrSet::default());
    let mark = outbox.mark();
    let record = LogRecord {
        time_unix_nano: 1,
        observed_time_unix_nano: 1,
        severity_number: 0,
        severity_text: "",
        body: "half of a visit",
        trace_id: None,
        span_id: None,
        stream: Stream::Stdout,
        uid: RecordUid { file: FileHash([0; 10]), offset: 0 },
        truncated: false,
        malformed: false,
        attributes: &[],
    };
    outbox.push(&record, &[Extent { file: FileId(1), start: 0, end: 10 }], Made::default(), now);
    assert!(outbox.due().is_some());
    outbox.rewind(&mark);
    outbox.seal_due(now + Duration::from_secs(1));
    assert_eq!(outbox.due(), None, "the reader would be woken for it again and again");
    assert!(outbox.is_idle());
}
