//! Headers that a configuration adds to requests.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize, Serializer};

/// What is printed instead of a header's value.
pub const HIDDEN: &str = "(not shown)";

/// Names and values. A value may be a credential (`Authorization: Bearer ${TOKEN}`), so none is printed, neither by `check` nor
/// where a configuration is logged.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    fn shown(&self) -> impl Iterator<Item = (&String, &'static str)> {
        self.0.keys().map(|name| (name, HIDDEN))
    }
}

impl<const N: usize> From<[(String, String); N]> for Headers {
    fn from(of: [(String, String); N]) -> Self {
        Self(of.into())
    }
}

impl Deref for Headers {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Serialize for Headers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_map().entries(self.shown()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_and_values_are_not() {
        let headers = Headers::from([("X-Api-Key".to_owned(), "hunter2".to_owned())]);
        assert_eq!(headers["X-Api-Key"], "hunter2");
        let (shown, printed) = (format!("{headers:?}"), crate::config::print(&headers).unwrap());
        assert!(shown.contains("X-Api-Key") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(printed.trim(), "X-Api-Key: (not shown)");
    }
}
