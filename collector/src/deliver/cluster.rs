//! `cluster` of the collector: `k8s.cluster.name` for records that came without one.
//!
//! It is set where frames leave the queue, so that every sink shows the same, and the queue holds what was sent. A name
//! that a sender gave stays. Costs one walk over the resources, and a copy of the request where one lacks it.

use std::borrow::Cow;

use sonde_wire::attrs::{AttrSet, keys};
use sonde_wire::proto::{Value, put_bytes, raw_fields};
use sonde_wire::view::{LogsRequest, ResourceView};

// `resource_logs` of ExportLogsServiceRequest (logs_service.proto), `resource` of ResourceLogs (logs.proto).
const GROUP: u8 = 1;
const RESOURCE: u8 = 1;

/// `request`, which passed `wire`'s check, with the cluster's name on every resource without one; empty = none is set.
pub fn fill<'a>(request: &'a [u8], cluster: &str) -> Cow<'a, [u8]> {
    let lacks = |group: ResourceView<'_>| group.attributes().get(keys::CLUSTER_NAME).is_none();
    let view = LogsRequest::trusted(request);
    if cluster.is_empty() || !view.resources().any(lacks) {
        return Cow::Borrowed(request);
    }
    let name = AttrSet::builder().str(keys::CLUSTER_NAME, cluster).build();
    let (mut out, mut filled) = (Vec::with_capacity(request.len() + 1024), Vec::new());
    let mut groups = view.resources();
    each(request, |raw, group| match group.and_then(|group| Some((group, groups.next()?))) {
        Some((group, view)) if lacks(view) => {
            filled.clear();
            put_bytes(&mut filled, RESOURCE, &[name.bytes(), view.resource_bytes()].concat());
            each(group, |raw, resource| {
                if resource.is_none() {
                    filled.extend_from_slice(raw);
                }
            });
            put_bytes(&mut out, GROUP, &filled);
        }
        _ => out.extend_from_slice(raw),
    });
    Cow::Owned(out)
}

/// Each field of a message: all its bytes, and the contents of field 1 where it is that. Both messages that are
/// changed here hold what is looked for in their field 1.
fn each<'a>(message: &'a [u8], mut take: impl FnMut(&'a [u8], Option<&'a [u8]>)) {
    for (field, value, raw) in raw_fields(message) {
        let first = match value {
            Value::Len(contents) if field == u32::from(GROUP) => Some(contents),
            _ => None,
        };
        take(raw, first);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::deliver::decode::LIMITS;
    use crate::store::tests::text;

    fn group() -> impl Strategy<Value = ResourceLogs> {
        let name = prop::option::of("[a-z]{0,8}");
        let others = prop::collection::vec(("[a-z.]{0,12}", "[a-z]{0,200}"), 0..4);
        (prop::option::of((name, others, any::<u32>())), 0..3_usize, ".{0,10}").prop_map(
            |(resource, scopes, schema_url)| ResourceLogs {
                resource: resource.map(|(name, others, dropped_attributes_count)| Resource {
                    attributes: others
                        .iter()
                        .map(|(key, value)| text(key, value))
                        .chain(name.map(|name| text("k8s.cluster.name", &name)))
                        .collect(),
                    dropped_attributes_count,
                    ..Resource::default()
                }),
                scope_logs: vec![
                    ScopeLogs {
                        log_records: vec![LogRecord::default(); 2],
                        ..ScopeLogs::default()
                    };
                    scopes
                ],
                schema_url,
            },
        )
    }

    proptest! {
        #[test]
        fn each_resource_without_a_cluster_gets_ours_and_nothing_else_changes(
            groups in prop::collection::vec(group(), 0..5), cluster in "[a-z]{1,300}"
        ) {
            let request = ExportLogsServiceRequest { resource_logs: groups };
            let bytes = request.encode_to_vec();
            let mut expected = request.clone();
            for group in &mut expected.resource_logs {
                let attributes = &mut group.resource.get_or_insert_default().attributes;
                if !attributes.iter().any(|attribute| attribute.key == "k8s.cluster.name") {
                    attributes.insert(0, text("k8s.cluster.name", &cluster));
                }
            }
            let filled = fill(&bytes, &cluster);
            prop_assert!(LogsRequest::check(&filled, &LIMITS).is_ok());
            prop_assert_eq!(&ExportLogsServiceRequest::decode(&*filled).unwrap(), &expected);
            prop_assert_eq!(fill(&filled, "other"), &filled[..], "a name that is there stays");
            prop_assert_eq!(fill(&bytes, ""), &bytes[..]);
        }

        #[test]
        fn any_bytes_that_pass_the_check_pass_it_again(bytes: Vec<u8>) {
            if LogsRequest::check(&bytes, &LIMITS).is_ok() {
                prop_assert!(LogsRequest::check(&fill(&bytes, "east"), &LIMITS).is_ok());
            }
        }
    }
}
