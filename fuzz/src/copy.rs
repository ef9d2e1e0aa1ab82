//! What arrives while a disk is copied from machine to machine.

use std::net::Ipv4Addr;
use std::time::Duration;

use clone::udpcast::receiver::{Config, Input, Receiver};
use clone::udpcast::wire::{ToReceiver, ToSender};

use crate::messages;

const SENDER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// One datagram, to either end. What is understood means the same when it is
/// written and read again.
pub fn udpcast_packet(data: &[u8]) {
    let mut bytes = Vec::new();
    if let Some(packet) = ToSender::parse(data) {
        packet.write(&mut bytes);
        assert_eq!(ToSender::parse(&bytes).as_ref(), Some(&packet));
    }
    bytes.clear();
    if let Some(packet) = ToReceiver::parse(data) {
        packet.write(&mut bytes);
        assert_eq!(ToReceiver::parse(&bytes).as_ref(), Some(&packet));
    }
}

/// Datagrams to one receiver. An empty one stands for time that passes.
pub fn udpcast_receiver(data: &[u8]) {
    let mut now = Duration::ZERO;
    let mut receiver = Receiver::new(Config::default(), now);
    let (mut buffer, mut packet) = (Vec::new(), Vec::new());
    for bytes in messages(data) {
        let input = match bytes {
            [] => Input::Tick,
            bytes => Input::Packet { from: SENDER, bytes },
        };
        if receiver.step(input, now).is_err() {
            return;
        }
        for _ in 0..64 {
            if !receiver.take(&mut buffer) {
                break;
            }
            assert!(!buffer.is_empty(), "the end of the stream is not data");
        }
        let mut sent = 0;
        while receiver.transmit(&mut packet).is_some() {
            sent += 1;
            assert!(sent <= 4096, "one datagram makes thousands");
        }
        while receiver.event().is_some() {}
        let pause = receiver.deadline().filter(|_| bytes.is_empty());
        now = pause.unwrap_or(now).max(now + Duration::from_millis(1));
    }
}
