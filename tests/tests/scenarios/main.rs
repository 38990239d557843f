//! What goes wrong with log files in the field, each as a promise that the real agent and the real collector keep.
//! `docs/log-promises.md` lists all of them, and the tests that show each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]

mod docker;
mod files;
mod kubelet;
mod lines;
mod multiline;
mod outage;
mod pods;
mod proxy;
mod rig;
mod rotation;
