//! The agent's account of its bytes: each row adds up, and nothing was given up.

use std::collections::BTreeMap;

use anyhow::ensure;

/// What one container's row, or a namespace's, has.
#[derive(Debug, Default, PartialEq)]
struct Row {
    observed: f64,
    acked: f64,
    shed: f64,
    lost: f64,
    excluded: f64,
    pending: f64,
}

impl Row {
    fn field(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "observed_bytes_total" => &mut self.observed,
            "acked_bytes_total" => &mut self.acked,
            "shed_bytes_total" => &mut self.shed,
            "lost_bytes_total" => &mut self.lost,
            "excluded_bytes_total" => &mut self.excluded,
            "pending_bytes" => &mut self.pending,
            _ => return None,
        })
    }
}

/// Labels of a sample that say whose it is: all but the reason.
fn owner(labels: &str) -> String {
    labels.split(',').filter(|label| !label.starts_with("reason=")).collect::<Vec<_>>().join(",")
}

fn rows(page: &str) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for line in page.lines() {
        let Some((name, rest)) = line.strip_prefix("sonde_agent_log_").and_then(|rest| rest.split_once('{'))
        else {
            continue;
        };
        let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
        let row = rows.entry(owner(labels)).or_default();
        if let (Some(field), Ok(value)) = (row.field(name), value.parse::<f64>()) {
            *field += value;
        }
    }
    rows
}

/// Bytes that were seen, of an agent that has shipped everything; `page` is its `/metrics/self`.
///
/// # Errors
/// A row that does not add up, or bytes that were given up or are pending.
pub(super) fn balanced(page: &str) -> anyhow::Result<f64> {
    let mut observed = 0.0;
    for (owner, row) in rows(page) {
        let accounted = row.acked + row.shed + row.lost + row.excluded + row.pending;
        ensure!(row.observed == accounted, "the ledger does not add up: {owner}: {row:?}");
        let given_up = row.shed + row.lost + row.excluded;
        ensure!(given_up == 0.0 && row.pending == 0.0, "bytes that were not shipped: {owner}: {row:?}");
        observed += row.observed;
    }
    ensure!(observed > 0.0, "the ledger is empty");
    Ok(observed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(observed: u64, acked: u64, lost: u64, pending: u64) -> String {
        let own = "namespace=\"shop\",pod=\"web-0\",container=\"app\"";
        format!(
            "# TYPE sonde_agent_log_observed_bytes_total counter\nsonde_agent_log_observed_bytes_total{{{own}}} {observed}\n\
             sonde_agent_log_acked_bytes_total{{{own}}} {acked}\nsonde_agent_log_pending_bytes{{{own}}} {pending}\n\
             sonde_agent_log_lost_bytes_total{{{own},reason=\"truncated\"}} {lost}\nsonde_agent_log_lost_bytes_total{{{own},reason=\"deleted_unread\"}} 0\n"
        )
    }

    #[test]
    fn only_a_ledger_that_adds_up_and_gave_nothing_up_is_balanced() {
        assert_eq!(balanced(&page(100, 100, 0, 0)).unwrap(), 100.0);
        for (page, said) in [
            (page(100, 99, 0, 0), "add up"),
            (page(100, 99, 1, 0), "not shipped"),
            (page(100, 99, 0, 1), "not shipped"),
            (String::new(), "empty"),
        ] {
            let error = balanced(&page).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
