//! Loading modules: dependencies first, each once, slow probes side by side.
//!
//! A driver's init may sleep for seconds while it probes hardware, so drivers are loaded in
//! child processes. Their dependencies only register themselves and are loaded in place, so
//! that no two children load the same library. The kernel settles the remaining races by
//! EEXIST.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::process::setpriority_process;
use rustix::system::finit_module;
use sys::errno::Shown;
use sys::file::open_read;
use sys::process::{Child, Exit, fork};

use crate::index::{Class, Compression, Index, ModuleId, normalise_name};

/// Most children at a time: more would only queue for the kernel's module lock.
const MAX_WORKERS: usize = 8;

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED: i32 = 4;

/// Classes whose init may sleep on hardware.
const SLOW: Class = Class::STORAGE.union(Class::NET).union(Class::BUS).union(Class::INPUT);

/// Alias of a bus's devices, and its controller's driver. That driver finds the devices one by
/// one: a device driver loaded meanwhile would probe them in any order, and disks and links
/// would be numbered differently at each boot.
const NUMBERED: &[(&str, &str)] = &[("virtio:", "virtio_pci")];

/// Drivers that stand on this one ask every channel of their controller, also those with
/// nothing attached, for a second and longer.
const SLOWEST: &str = "libata";

/// Which modules may be loaded, and with which options.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Classes of modules that devices may pull in.
    pub classes: Class,
    /// Names that devices may not pull in, with underscores.
    pub blacklist: Vec<String>,
    /// `(module, "param=value")` in the order given, names with underscores.
    pub options: Vec<(String, String)>,
    /// The drivers whose probing is slowest wait until [`Loader::release`]: what another
    /// driver finds may be all that is needed.
    pub patient: bool,
}

/// Events, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A module was loaded.
    Loaded(String),
    /// A module could not be loaded.
    Failed(LoadError),
}

/// Why a module could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// The module's name, or the requested alias.
    pub module: String,
    /// The reason.
    pub reason: Reason,
}

/// Why a module could not be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The image does not have it, and the kernel does not have it built in.
    NotInImage,
    /// The file could not be opened.
    Open(Errno),
    /// The kernel refused it.
    Kernel(Errno),
    /// The child that loaded it was killed.
    Killed(i32),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "module {}: ", self.module)?;
        match self.reason {
            Reason::NotInImage => f.write_str(
                "not in this image and not built into the kernel; build the image with a larger profile",
            ),
            Reason::Open(Errno::NOENT) => f.write_str(
                "its file is not there although the index names it; is the initramfs cut short? copy it again",
            ),
            Reason::Open(errno) => write!(f, "cannot open its file: {}", Shown(errno)),
            Reason::Kernel(Errno::NOEXEC) => {
                f.write_str("the kernel refuses its format; image and kernel do not belong together")
            }
            Reason::Kernel(Errno::KEYREJECTED | Errno::NOKEY) => {
                f.write_str("the kernel refuses its signature (Secure Boot)")
            }
            Reason::Kernel(Errno::NODEV) => f.write_str("found no hardware for itself"),
            Reason::Kernel(errno) => write!(f, "the kernel refuses it: {}", Shown(errno)),
            Reason::Killed(signal) => write!(f, "killed by signal {signal} while loading"),
        }
    }
}

impl core::error::Error for LoadError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    /// Queued, or a child is at it.
    Underway,
    Loaded,
    Failed,
}

/// A module to be loaded.
#[derive(Debug)]
struct Wanted {
    module: ModuleId,
    /// Loaded before, if it is underway.
    after: Option<ModuleId>,
    /// It stands on [`SLOWEST`].
    last: bool,
}

#[derive(Debug)]
struct Worker {
    module: ModuleId,
    child: Child,
}

/// Loads modules of one index by policy.
#[derive(Debug)]
pub struct Loader<'a> {
    index: Index<'a>,
    policy: Policy,
    states: Vec<State>,
    queue: Vec<Wanted>,
    workers: Vec<Worker>,
    events: Vec<Event>,
}

impl<'a> Loader<'a> {
    /// A loader that has loaded nothing yet.
    #[must_use]
    pub fn new(index: Index<'a>, policy: Policy) -> Self {
        let states = vec![State::Unknown; index.len()];
        Self { index, policy, states, queue: Vec::new(), workers: Vec::new(), events: Vec::new() }
    }

    /// Loads a module by name or alias and waits for it. Of an alias's modules one is enough.
    /// Built-in ones count as loaded.
    ///
    /// The blacklist does not apply to requests by name.
    ///
    /// # Errors
    /// The last module's [`Reason`] when none could be loaded.
    pub fn require(&mut self, name: &str) -> Result<(), LoadError> {
        let mut found = Vec::new();
        self.index.for_request(name, &mut |id| found.push(id));
        if found.is_empty() {
            return if self.index.is_builtin(name) {
                Ok(())
            } else {
                Err(LoadError { module: name.to_string(), reason: Reason::NotInImage })
            };
        }
        let mut result = Ok(());
        for id in found {
            self.load_soft(id, true);
            result = self.load_chain(id);
            self.load_soft(id, false);
            if result.is_ok() {
                return Ok(());
            }
        }
        result
    }

    /// Loads, in the background, the modules that claim this device.
    pub fn device(&mut self, modalias: &str) {
        let mut found = Vec::new();
        self.index.for_modalias(modalias, &mut |id| found.push(id));
        let bus = NUMBERED.iter().find(|(devices, _)| modalias.starts_with(devices));
        let after = bus.and_then(|(_, driver)| self.index.by_name(driver));
        let slowest = self.index.by_name(SLOWEST);
        for id in found {
            let module = self.index.module(id);
            let wanted = module.class().intersects(self.policy.classes)
                && !module.blacklisted()
                && !self.policy.blacklist.iter().any(|name| name == module.name());
            if wanted && self.state(id) == State::Unknown {
                let last = module.deps().any(|dep| Some(dep) == slowest);
                self.set(id, State::Underway);
                self.queue.push(Wanted { module: id, after, last });
            }
        }
        self.start_workers();
    }

    /// Adds options for a module before the existing ones, which win.
    pub fn add_options(&mut self, module: &str, options: &str) {
        self.policy.options.insert(0, (module.to_string(), options.to_string()));
    }

    /// Whether the image has a module of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.index.by_name(name).is_some()
    }

    /// Whether anything is still being loaded, or waits for [`Self::release`].
    #[must_use]
    pub fn busy(&self) -> bool {
        !self.workers.is_empty() || !self.queue.is_empty()
    }

    /// Starts, if all else is loaded, on what the policy lets wait; from then on nothing waits.
    pub fn release(&mut self) {
        if self.workers.is_empty() && !self.queue.is_empty() {
            self.policy.patient = false;
            self.start_workers();
        }
    }

    /// Descriptors that become readable when [`Self::on_ready`] has something to do.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.workers.iter().map(|worker| worker.child.as_fd())
    }

    /// Collects finished children and starts the next ones; does not wait.
    pub fn on_ready(&mut self) {
        let mut at = 0;
        while let Some(worker) = self.workers.get(at) {
            let id = worker.module;
            let result = match worker.child.try_wait() {
                Ok(None) => {
                    at += 1;
                    continue;
                }
                Ok(Some(Exit::Status(0))) => Ok(()),
                Ok(Some(Exit::Status(errno))) => {
                    Err(Reason::Kernel(Errno::from_raw_os_error(errno)))
                }
                Ok(Some(Exit::Signal(signal))) => Err(Reason::Killed(signal)),
                Err(errno) => Err(Reason::Kernel(errno)),
            };
            self.workers.swap_remove(at);
            // The module's state has it.
            let _ = self.finish(id, result);
            self.load_soft(id, false);
        }
        self.start_workers();
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    fn start_workers(&mut self) {
        while self.workers.len() < MAX_WORKERS {
            let ready = self.queue.iter().position(|wanted| {
                !(wanted.last && self.policy.patient)
                    && wanted.after.is_none_or(|bus| self.state(bus) != State::Underway)
            });
            let Some(wanted) = ready.map(|at| self.queue.remove(at)) else { return };
            let id = wanted.module;
            self.load_soft(id, true);
            let module = self.index.module(id);
            if let Err(error) = self.load_deps(id) {
                self.set(id, State::Failed);
                self.events.push(Event::Failed(error));
                continue;
            }
            let forked = if module.class().intersects(SLOW) {
                let this = &*self;
                fork(|| {
                    // Probing may take long; the boot's own waits have deadlines.
                    let _ = setpriority_process(None, 0);
                    match this.insert(id) {
                        Ok(()) => 0,
                        Err(Reason::Open(errno) | Reason::Kernel(errno)) => errno.raw_os_error(),
                        Err(_) => Errno::INVAL.raw_os_error(),
                    }
                })
                .ok()
            } else {
                None
            };
            match forked {
                Some(child) => self.workers.push(Worker { module: id, child }),
                None => {
                    let result = self.insert(id);
                    // The module's state has it.
                    let _ = self.finish(id, result);
                    self.load_soft(id, false);
                }
            }
        }
    }

    /// Loads a module and its dependencies, in place.
    fn load_chain(&mut self, id: ModuleId) -> Result<(), LoadError> {
        match self.state(id) {
            State::Loaded => return Ok(()),
            // A child may be loading it: the second request waits in the kernel for the first.
            State::Unknown | State::Underway | State::Failed => {}
        }
        self.load_deps(id)?;
        let result = self.insert(id);
        self.finish(id, result)
    }

    fn load_deps(&mut self, id: ModuleId) -> Result<(), LoadError> {
        for dep in self.index.module(id).deps() {
            if self.state(dep) != State::Loaded {
                let result = self.insert(dep);
                self.finish(dep, result)?;
            }
        }
        Ok(())
    }

    /// Soft dependencies are optional: a failure is only logged.
    fn load_soft(&mut self, id: ModuleId, before: bool) {
        let module = self.index.module(id);
        let wishes: Vec<ModuleId> =
            if before { module.soft_pre().collect() } else { module.soft_post().collect() };
        for wish in wishes {
            if self.state(wish) == State::Unknown {
                // A soft dependency may fail.
                let _ = self.load_chain(wish);
            }
        }
    }

    fn finish(&mut self, id: ModuleId, result: Result<(), Reason>) -> Result<(), LoadError> {
        let name = self.index.module(id).name().to_string();
        match result {
            Ok(()) => {
                self.set(id, State::Loaded);
                self.events.push(Event::Loaded(name));
                Ok(())
            }
            Err(reason) => {
                let error = LoadError { module: name, reason };
                // A module that is asked for in each round of a search fails in each.
                if self.state(id) != State::Failed {
                    self.events.push(Event::Failed(error.clone()));
                }
                self.set(id, State::Failed);
                Err(error)
            }
        }
    }

    /// Hands one module to the kernel; "already loaded" is success.
    fn insert(&self, id: ModuleId) -> Result<(), Reason> {
        let module = self.index.module(id);
        let file = open_read(&format!("/{}", module.path())).map_err(Reason::Open)?;
        let flags = if module.compression() == Compression::None { 0 } else { COMPRESSED };
        match finit_module(&file, &self.options(id), flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Reason::Kernel(errno)),
        }
    }

    /// The image's own options for a module, then the command line's.
    fn options(&self, id: ModuleId) -> CString {
        let module = self.index.module(id);
        let mut options = String::from(module.options());
        for (name, option) in &self.policy.options {
            if normalise_name(name) == module.name() {
                if !options.is_empty() {
                    options.push(' ');
                }
                options.push_str(option);
            }
        }
        CString::new(options).unwrap_or_default()
    }

    fn state(&self, id: ModuleId) -> State {
        self.states.get(id.index()).copied().unwrap_or(State::Failed)
    }

    fn set(&mut self, id: ModuleId, state: State) {
        if let Some(slot) = self.states.get_mut(id.index()) {
            *slot = state;
        }
    }
}
