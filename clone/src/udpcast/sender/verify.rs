//! After the last byte: what each receiver's copy is.

use super::{Event, Sender, State, To};
use crate::Error;
use crate::digest::Digest;
use crate::outcome::Standing;
use crate::udpcast::NAME;
use crate::udpcast::wire::ToReceiver;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

/// How long a verifying receiver may be silent.
const VERIFY_PATIENCE: Duration = Duration::from_secs(20);
const VERIFY_INTERVAL: Duration = Duration::from_millis(100);

impl Sender {
    pub(super) fn maybe_over(&mut self, now: Duration) -> Result<(), Error> {
        let none = !self
            .machines
            .iter()
            .any(|m| matches!(m.standing, Standing::Receiving | Standing::Acknowledged));
        if none && !self.config.asynchronous && !self.config.streaming {
            return Err(Error::Gone {
                protocol: NAME,
                peer: "the last receiver".into(),
                when: "before the end; no receiver has a whole copy",
            });
        }
        if self.end_cut && self.window.is_empty() && self.control.is_empty() {
            for machine in &mut self.machines {
                if machine.standing == Standing::Receiving {
                    machine.standing = Standing::Acknowledged;
                }
            }
            self.state = State::Verifying;
            self.verify_next = now;
            self.verify_heard = now;
        }
        Ok(())
    }

    pub(super) fn digest(&self, digest: Digest, heard: bool) -> ToReceiver<'static> {
        let code = self.pact.as_ref().map(|pact| pact.end(0, &digest));
        ToReceiver::Digest { digest, heard, code }
    }

    pub(super) fn verify(&mut self, now: Duration) {
        let digest = self.meter.digest();
        let open: Vec<Ipv4Addr> = self
            .machines
            .iter()
            .filter(|m| m.verify && m.missed == 0 && m.standing == Standing::Acknowledged)
            .map(|m| m.address)
            .collect();
        // Without a way back: say it a few times to everybody.
        let blind = self.config.asynchronous && self.config.verify && self.verify_sent < 5;
        if self.control.is_empty()
            && ((open.is_empty() && !blind)
                || now.saturating_sub(self.verify_heard) >= VERIFY_PATIENCE)
        {
            self.state = State::Finished;
            self.events.push_back(Event::Finished(digest));
            return;
        }
        if now >= self.verify_next {
            self.verify_next = now + VERIFY_INTERVAL;
            self.verify_sent += 1;
            let packet = self.digest(digest, false);
            if blind {
                self.reply(To::Group(self.group), &packet);
            }
            for address in open {
                self.reply(To::Machine(address), &packet);
            }
        }
    }
}
