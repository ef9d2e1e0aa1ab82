//! A relay that cuts its first connection, for the tests of P2V here and in `bellwether`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// The port of a relay to `to` that cuts its first connection after so many bytes. With
/// `half_open` the server is not told.
pub fn cutting(to: u16, after: usize, half_open: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for (n, client) in listener.incoming().enumerate() {
            let (client, server) =
                (client.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
            held.push(server.try_clone().unwrap());
            let (mut back, mut there) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut there, &mut back));
            let (mut from, mut on) = (client, server);
            std::thread::spawn(move || {
                let (mut room, mut done) = ([0; 65536], 0);
                while let Ok(length @ 1..) = from.read(&mut room) {
                    done += length;
                    if n == 0 && done > after {
                        let _ = from.shutdown(Shutdown::Both);
                        if !half_open {
                            let _ = on.shutdown(Shutdown::Both);
                        }
                        return;
                    }
                    if on.write_all(&room[..length]).is_err() {
                        return;
                    }
                }
                let _ = on.shutdown(Shutdown::Write);
            });
        }
    });
    port
}
