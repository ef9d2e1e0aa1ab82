//! coldplug
