//! The facts.

use alloc::string::String;
use alloc::vec::Vec;

use cmdline::{BootPlan, pins};
use netboot::network::NetworkUp;

/// What the lists are made from beside the plan. A text is a file's; that of a directory
/// is empty.
pub trait Look {
    /// The boot link, with its settings.
    fn up(&self) -> Option<&NetworkUp>;
    /// Whether the root comes over the network.
    fn remote(&self) -> bool;
    /// The text at a path of the new root.
    fn root(&self, path: &str) -> Option<String>;
    /// Where the link at a path of the new root leads.
    fn link(&self, path: &str) -> Option<String>;
    /// The text at a path of the initramfs.
    fn initramfs(&self, path: &str) -> Option<String>;
    /// The text at a path of the medium.
    fn medium(&self, path: &str) -> Option<String>;
    /// The same, unless images are pinned: what lies beside them is not.
    fn beside_images(&self, plan: &BootPlan, path: &str) -> Option<String> {
        if pins::pinned(plan) { None } else { self.medium(path) }
    }
    /// The swap partitions among these devices.
    fn swaps(&mut self, devices: &[String]) -> Vec<String>;
}
