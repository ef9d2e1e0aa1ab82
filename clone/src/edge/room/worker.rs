//! Disks that work beside the network: a slow one must not keep chunks from the next machine.
//!
//! Where the program can have no thread, the disks do at once what they are asked.

use crate::edge::world::Shelf;
use crate::edge::world::Work;
use crate::room::{Ask, Told};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, read, write};
use spin::Mutex;

/// Disks, perhaps with a thread.
#[derive(Debug)]
pub enum Worker {
    /// They answer at once.
    Here(Box<dyn Shelf>, VecDeque<Told>),
    /// A thread has them.
    Beside(Arc<Shared>),
}

/// What the two threads share.
#[derive(Debug)]
pub struct Shared {
    asks: Mutex<VecDeque<Ask>>,
    answers: Mutex<VecDeque<Told>>,
    /// Pieces of work that were done.
    steps: AtomicU64,
    ends: AtomicBool,
    asked: OwnedFd,
    answered: OwnedFd,
    ended: OwnedFd,
}

impl Worker {
    /// With a thread, when there is what starts one.
    pub fn new(disks: Box<dyn Shelf>, thread: Option<fn(Work)>) -> Self {
        let (Some(thread), Ok(shared)) = (thread, Shared::new()) else {
            return Self::Here(disks, VecDeque::new());
        };
        let shared = Arc::new(shared);
        let own = shared.clone();
        thread(Box::new(move || own.work(disks)));
        Self::Beside(shared)
    }

    /// Asks for something, behind what was asked before.
    pub fn ask(&mut self, ask: Ask) {
        match self {
            Self::Here(disks, answers) => answers.push_back(disks.ask(ask, &mut || ())),
            Self::Beside(shared) => {
                shared.asks.lock().push_back(ask);
                ring(&shared.asked);
            }
        }
    }

    /// The next answer that is there.
    pub fn answer(&mut self) -> Option<Told> {
        match self {
            Self::Here(_, answers) => answers.pop_front(),
            Self::Beside(shared) => {
                let answer = shared.answers.lock().pop_front();
                if answer.is_none() {
                    let _ = read(&shared.answered, &mut [0; 8]);
                    // One may have come in between.
                    return shared.answers.lock().pop_front();
                }
                answer
            }
        }
    }

    /// To wait for an answer.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Here(..) => None,
            Self::Beside(shared) => Some(shared.answered.as_fd()),
        }
    }

    /// Changes as long as the disks do something.
    pub fn steps(&self) -> u64 {
        match self {
            Self::Here(..) => 0,
            Self::Beside(shared) => shared.steps.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Worker {
    /// The next try must find the disks closed.
    fn drop(&mut self) {
        if let Self::Beside(shared) = self {
            shared.ends.store(true, Ordering::Release);
            ring(&shared.asked);
            wait(&shared.ended);
        }
    }
}

fn ring(fd: &OwnedFd) {
    let _ = write(fd, &1u64.to_ne_bytes());
}

fn wait(fd: &OwnedFd) {
    while read(fd, &mut [0; 8]) == Err(Errno::INTR) {}
}

impl Shared {
    fn new() -> Result<Self, Errno> {
        let event = |flags| eventfd(0, EventfdFlags::CLOEXEC | flags);
        Ok(Self {
            asks: Mutex::default(),
            answers: Mutex::default(),
            steps: AtomicU64::new(0),
            ends: AtomicBool::new(false),
            asked: event(EventfdFlags::empty())?,
            answered: event(EventfdFlags::NONBLOCK)?,
            ended: event(EventfdFlags::empty())?,
        })
    }

    fn work(&self, mut disks: Box<dyn Shelf>) {
        while !self.ends.load(Ordering::Acquire) {
            let ask = self.asks.lock().pop_front();
            let Some(ask) = ask else {
                wait(&self.asked);
                continue;
            };
            let step = || {
                self.steps.fetch_add(1, Ordering::Relaxed);
            };
            let told = disks.ask(ask, &mut || step());
            step();
            self.answers.lock().push_back(told);
            ring(&self.answered);
        }
        drop(disks);
        ring(&self.ended);
    }
}
