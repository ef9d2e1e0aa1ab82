//! The services and their switches.

use std::sync::atomic::{AtomicBool, Ordering};

/// A service that can be switched off and on again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it")]
pub enum Service {
    Dhcp,
    Tftp,
    Http,
    Nfs,
    Nbd,
}

/// Every service with its name, in display order.
pub const SERVICES: [(Service, &str); 5] = [
    (Service::Dhcp, "dhcp"),
    (Service::Tftp, "tftp"),
    (Service::Http, "http"),
    (Service::Nfs, "nfs"),
    (Service::Nbd, "nbd"),
];

/// Which services are on. All are at first.
#[derive(Debug, Default)]
pub struct Switches([AtomicBool; 5]);

impl Switches {
    fn off(&self, service: Service) -> Option<&AtomicBool> {
        self.0.get(SERVICES.iter().position(|(known, _)| *known == service)?)
    }

    /// Whether a service answers.
    pub fn is_on(&self, service: Service) -> bool {
        self.off(service).is_none_or(|off| !off.load(Ordering::Relaxed))
    }

    /// Switches a service.
    pub fn set(&self, service: Service, on: bool) {
        if let Some(off) = self.off(service) {
            off.store(!on, Ordering::Relaxed);
        }
    }
}
