//! The kubelet's `/pods`, and the API server in its place for as long as the kubelet refuses (`pods.source: auto`).
//!
//! - One of them tells at a time. What the other one says is not shown, and the change is one picture in the place of another: no pod
//!   goes in between.
//! - When is up to [`Trust`]. A kubelet in whose place nobody tells is taken back at its first answer.
//! - The API server is asked at random times ([`Pace`]): first within ten seconds, and one that refuses, as the shipped manifests
//!   have it, each five minutes or more.
//!
//! Memory: that of the source that tells, and an answer of the other one while it is looked at.

use std::time::{Duration, Instant};

use sonde_daemon::backoff::Backoff;

use super::trust::{Pace, Trust};
use crate::api_server::{ApiServer, Tells};
use crate::kubelet::pods::Picture;
use crate::kubelet::{Pods, judged};

/// Both loops.
pub(super) struct Either {
    pods: Pods,
    api: ApiServer,
    trust: Trust,
    pace: Pace,
}

impl Either {
    pub(super) fn new(pods: Pods, api: ApiServer) -> Self {
        Self::with_pace(pods, api, Pace::default())
    }

    fn with_pace(pods: Pods, api: ApiServer, pace: Pace) -> Self {
        Self { pods, api, trust: Trust::new(pace), pace }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let trust = &mut self.trust;
            self.pods.until(|answer| trust.is_lost(answer, Instant::now())).await;
            self.stand_in().await;
        }
    }

    /// The API server is asked, until the kubelet tells again.
    async fn stand_in(&mut self) {
        let Self { pods, api, trust, pace } = self;
        let tells = api.tells();
        let (picture, took) = tokio::select! {
            never = api.stand_in(pace) => match never {},
            told = back(pods, trust, pace, &tells) => told,
        };
        pods.show(picture);
        pods.report(true, took);
        api.rest();
    }
}

/// What a kubelet that is trusted again says, and how long that took.
async fn back(pods: &mut Pods, trust: &mut Trust, pace: &Pace, tells: &Tells) -> (Picture, Duration) {
    let mut random = Backoff::new();
    loop {
        // Where nobody tells in its place it is asked as often as ever.
        let wait = if tells.get() { pace.probe } else { pace.probe.min(pods.interval()) };
        tokio::time::sleep(wait / 2 + random.up_to(wait)).await;
        let asked = Instant::now();
        let answer = pods.ask().await;
        let (has_stand_in, took) = (tells.get(), asked.elapsed());
        let is_back = trust.is_back(judged(&answer), Instant::now());
        match answer {
            Ok(picture) if is_back => return (picture, took),
            Ok(picture) if !has_stand_in => {
                trust.take_back();
                return (picture, took);
            }
            Err(_) if !has_stand_in => pods.report(false, took),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
