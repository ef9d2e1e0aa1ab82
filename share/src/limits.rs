//! How many messages a client may cause.
//!
//! Each client has a bucket for each kind of message, and all clients together have one more:
//! addresses are forged easily. Messages that exceed a bucket are left out and counted. Told the
//! time; no clocks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A rate: this many messages at once, and then one in each interval.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    interval: Duration,
}

/// A machine that boots causes about a dozen messages in a minute, most of one kind.
const OF_ONE: Rate = Rate { burst: 20, interval: Duration::from_secs(3) };
/// A room of 500 machines that boot together.
const OF_ALL: Rate = Rate { burst: 5000, interval: Duration::from_millis(20) };
/// Buckets that are kept; more are forged, and share one.
const MAX_BUCKETS: usize = 4096;
/// How often full buckets are forgotten, at most.
const FORGET: Duration = Duration::from_secs(1);
/// The client of shared buckets.
const OTHERS: &str = "others";

/// A bucket, by the time at which it would be full again.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full: Option<Instant>,
    left_out: u64,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full = self.full.map_or(now, |full| full.max(now)) + rate.interval;
        let fits = full.saturating_duration_since(now) <= rate.interval * rate.burst;
        if fits {
            self.full = Some(full);
        }
        fits
    }
}

/// Buckets of all clients.
#[derive(Debug, Default)]
pub struct Limits {
    buckets: BTreeMap<(String, &'static str), Bucket>,
    all: Bucket,
    forgot: Option<Instant>,
}

impl Limits {
    /// Whether a message of this kind about this client may be told; counts it otherwise.
    pub fn allow(&mut self, who: &str, kind: &'static str, now: Instant) -> bool {
        let mut key = (who.to_owned(), kind);
        if self.buckets.len() >= MAX_BUCKETS && !self.buckets.contains_key(&key) {
            if self.forgot.is_none_or(|at| now.saturating_duration_since(at) >= FORGET) {
                self.forgot = Some(now);
                self.buckets.retain(|_, b| b.left_out > 0 || b.full.is_some_and(|full| full > now));
            }
            if self.buckets.len() >= MAX_BUCKETS {
                key.0 = OTHERS.to_owned();
            }
        }
        let bucket = self.buckets.entry(key).or_default();
        let allowed = bucket.take(OF_ONE, now) && self.all.take(OF_ALL, now);
        bucket.left_out = bucket.left_out.saturating_add(u64::from(!allowed));
        allowed
    }

    /// What was left out since the last call, in a sentence.
    pub fn left_out(&mut self) -> Option<String> {
        let most = self.buckets.iter().max_by_key(|(_, bucket)| bucket.left_out)?;
        let (who, kind) = most.0.clone();
        let left_out = self.buckets.values_mut().map(|b| std::mem::take(&mut b.left_out));
        let count = left_out.fold(0u64, u64::saturating_add);
        (count > 0).then(|| {
            format!("{count} more messages were left out, most of them about {who} ({kind})")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_a_boot_is_told() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let told = (0..62_000).filter(|_| limits.allow("a", "refused", start)).count();
        assert_eq!(told, OF_ONE.burst as usize);
        // Another client, and another kind of message.
        assert!(limits.allow("b", "refused", start) && limits.allow("a", "client", start));
        let said = limits.left_out().unwrap();
        assert_eq!(said, "61980 more messages were left out, most of them about a (refused)");
        assert_eq!(limits.left_out(), None);
        // One more after each interval.
        let later = start + OF_ONE.interval;
        assert!(limits.allow("a", "refused", later) && !limits.allow("a", "refused", later));
    }

    #[test]
    fn forged_clients_share_a_limit_and_take_no_memory() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        let told = (0..100_000).filter(|n| limits.allow(&n.to_string(), "client", start)).count();
        assert!(told <= OF_ALL.burst as usize, "{told}");
        assert!(limits.buckets.len() <= MAX_BUCKETS + 1);
        // Buckets that are full again are forgotten, once what they left out was said.
        assert!(limits.left_out().is_some());
        let later = start + OF_ALL.interval * OF_ALL.burst;
        assert!(limits.allow("honest", "client", later));
        assert_eq!(limits.buckets.len(), 1);
    }
}
