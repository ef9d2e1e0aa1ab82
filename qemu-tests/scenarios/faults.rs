//! Faults of cables, servers, media and machines: docs/faults.md.
//!
//! Each test boots a machine for each row of its part of the table.

use qemu_tests::faults::check;

macro_rules! parts {
    ($($quick:ident $every:ident $part:literal;)*) => {$(
        #[test]
        fn $quick() {
            check($part, false);
        }

        #[test]
        #[ignore = "minutes; cargo xtask test --sweep --only faults"]
        fn $every() {
            check($part, true);
        }
    )*};
}

parts! {
    some_cables every_cable "Cables";
    some_dhcp_servers every_dhcp_server "DHCP";
    some_file_servers every_file_server "HTTP and TFTP";
    some_shares every_share "NFS and NBD";
    some_media every_medium "Media and initramfs";
    some_machines every_machine "Machines";
}
