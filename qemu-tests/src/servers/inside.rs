//! Servers that are threads of this process: those that no real program can be made to be.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a server looks whether it is to end.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// Threads that end when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Inside {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Inside {
    /// Starts a thread, which looks every [`LOOK`] whether it is to end.
    pub fn add(&mut self, serve: impl FnOnce(&AtomicBool) + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || serve(&stop)));
    }

    /// Starts a server of TCP: `serve` gets each connection in a thread of its own, with the
    /// number of those before it.
    pub fn add_tcp(
        &mut self,
        listener: TcpListener,
        serve: impl Fn(TcpStream, usize) + Send + Sync + 'static,
    ) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let (serve, count) = (Arc::new(serve), AtomicUsize::new(0));
        self.add(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (serve, nth) =
                            (Arc::clone(&serve), count.fetch_add(1, Ordering::Relaxed));
                        thread::spawn(move || {
                            // A connection that cannot be set up is one that the client lost.
                            if stream.set_nonblocking(false).is_ok() {
                                serve(stream, nth);
                            }
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(LOOK),
                    Err(_) => return,
                }
            }
        });
        Ok(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
