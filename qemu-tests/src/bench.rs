//! Times initramfs against each other.
