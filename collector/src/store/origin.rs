//! Where records come from: what all records of one resource and scope have in common, kept once a block.

use crate::json;

/// What all records of one resource and scope have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `k8s.cluster.name`, `k8s.node.name`, `k8s.namespace.name`, `k8s.pod.name`, `k8s.container.name`.
    pub names: [Option<String>; 5],
    /// All other attributes as the members of a JSON object, without its braces.
    pub attributes: String,
}

/// The resource attributes behind [`Origin::names`], in their order.
pub const NAME_KEYS: [&str; 5] =
    ["k8s.cluster.name", "k8s.node.name", "k8s.namespace.name", "k8s.pod.name", "k8s.container.name"];

/// Names of [`Origin::names`] in the index and the API, in their order.
pub const NAMES: [&str; 5] = ["cluster", "node", "namespace", "pod", "container"];

impl Origin {
    /// Appends its bytes: for each name a length (`u32::MAX`: there is none) and the text, then the attributes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for name in self.names.iter().map(Option::as_deref).chain([Some(self.attributes.as_str())]) {
            let len = name.map_or(u32::MAX, |name| u32::try_from(name.len()).unwrap_or(u32::MAX - 1));
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(name.unwrap_or_default().as_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote; `None` where the bytes are something else.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut next = || {
            let (len, rest) = bytes.split_first_chunk::<4>()?;
            let len = u32::from_le_bytes(*len);
            if len == u32::MAX {
                bytes = rest;
                return Some(None);
            }
            let (text, rest) = rest.split_at_checked(len as usize)?;
            bytes = rest;
            Some(Some(std::str::from_utf8(text).ok()?.to_owned()))
        };
        let mut origin = Self::default();
        for name in &mut origin.names {
            *name = next()?;
        }
        origin.attributes = next()??;
        bytes.is_empty().then_some(origin)
    }

    /// Bytes that it occupies in memory, about.
    pub fn size(&self) -> usize {
        200 + self.attributes.len() + self.names.iter().flatten().map(String::len).sum::<usize>()
    }

    /// Appends `"cluster":…,"container":…`, the API's members, `null` where a name is not known.
    pub fn write_names(&self, out: &mut Vec<u8>) {
        for (key, name) in NAMES.iter().zip(&self.names) {
            out.push(b',');
            json::write_str(key, out);
            out.push(b':');
            match name {
                Some(name) => json::write_str(name, out),
                None => out.extend_from_slice(b"null"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_origin_reads_back_and_any_cut_of_it_is_refused(
            a: Option<String>, b: Option<String>, attributes: String, cut: usize
        ) {
            let origin = Origin { names: [a, b, None, Some(String::new()), None], attributes };
            let mut bytes = Vec::new();
            origin.encode(&mut bytes);
            prop_assert_eq!(Origin::decode(&bytes), Some(origin));
            prop_assert_eq!(Origin::decode(&bytes[..cut % bytes.len()]), None);
        }
    }
}
