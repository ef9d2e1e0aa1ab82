//! Finding the root: every source of the plan, in its order, round after round,
//! until one holds what the plan asks for.
//!
//! A source leads to things that might do: one export, one file, or every disk
//! there is. `search` walks the sources, `reach` mounts, connects, fetches and
//! inspects, `examine` takes an offer or says why not; the reasons are the
//! failure screen. Search and examination know the machine only by `reach::Reach`, so
//! that `cases.txt` tests them without one.

mod examine;
mod reach;
mod search;

pub use reach::{Offer, Reach, Reached};
pub use search::{find, find_in};

#[cfg(test)]
mod tests;
