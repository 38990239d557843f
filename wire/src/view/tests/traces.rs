//! Traces, beside what prost makes of the same bytes.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::prelude::*;
use prost::Message as _;

use super::{LIMITS, pairs};
use crate::view::{ViewError, check_traces};

fn spans() -> impl Strategy<Value = Span> {
    let events = prop::collection::vec((any::<u64>(), "\\PC{0,9}", pairs()), 0..3);
    let links = prop::collection::vec(("[a-z=]{0,9}", pairs(), any::<u32>()), 0..3);
    let status = prop::option::of(("\\PC{0,9}", any::<i32>()));
    (any::<(u64, u64, i32, u32)>(), "\\PC{0,12}", pairs(), events, links, status).prop_map(
        |((start, end, kind, dropped), name, attributes, events, links, status)| Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            parent_span_id: vec![3; 8],
            trace_state: "a=b".to_owned(),
            flags: dropped,
            name,
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: end,
            attributes,
            dropped_attributes_count: dropped,
            events: events
                .into_iter()
                .map(|(time_unix_nano, name, attributes)| Event {
                    time_unix_nano,
                    name,
                    attributes,
                    dropped_attributes_count: 1,
                })
                .collect(),
            dropped_events_count: 1,
            links: links
                .into_iter()
                .map(|(trace_state, attributes, flags)| Link {
                    trace_id: vec![4; 16],
                    span_id: vec![5; 8],
                    trace_state,
                    attributes,
                    dropped_attributes_count: 2,
                    flags,
                })
                .collect(),
            dropped_links_count: 3,
            status: status.map(|(message, code)| Status { message, code }),
        },
    )
}

fn requests() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope = (prop::collection::vec(spans(), 0..4), "\\PC{0,6}")
        .prop_map(|(spans, schema_url)| ScopeSpans { spans, schema_url, scope: Some(Default::default()) });
    let group = prop::collection::vec(scope, 0..3).prop_map(|scope_spans| ResourceSpans {
        resource: Some(Default::default()),
        scope_spans,
        schema_url: "u".to_owned(),
    });
    prop::collection::vec(group, 0..3).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

proptest! {
    #[test]
    fn whatever_prost_writes_passes_and_is_counted(request in requests()) {
        let summary = check_traces(&request.encode_to_vec(), &LIMITS).unwrap();
        let spans = request.resource_spans.iter().flat_map(|of| &of.scope_spans).map(|of| of.spans.len()).sum::<usize>();
        prop_assert_eq!((summary.resources as usize, summary.records as usize), (request.resource_spans.len(), spans));
    }

    #[test]
    fn what_passes_prost_reads(request in requests(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = request.encode_to_vec();
        if !bytes.is_empty() {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if check_traces(&bytes, &LIMITS).is_ok() {
            prop_assert!(ExportTraceServiceRequest::decode(&bytes[..]).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>) {
        if check_traces(&bytes, &LIMITS).is_ok() {
            prop_assert!(ExportTraceServiceRequest::decode(&bytes[..]).is_ok());
        }
    }
}

#[test]
fn a_span_has_no_more_events_and_links_than_values_are_let_through() {
    let many = |events: usize, links: usize| {
        let span = Span {
            events: vec![Event::default(); events],
            links: vec![Link::default(); links],
            ..Span::default()
        };
        let scope = ScopeSpans { spans: vec![span; 2], ..ScopeSpans::default() };
        let group = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        check_traces(&ExportTraceServiceRequest { resource_spans: vec![group] }.encode_to_vec(), &LIMITS)
    };
    assert_eq!(many(500, 500).unwrap().records, 2);
    assert!(matches!(many(501, 500), Err(ViewError::TooMany { limit: 1000, .. })));
}
