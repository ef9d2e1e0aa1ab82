//! LTSP: its client part, which the initramfs holds when `ltsp.img` lies beside us,
//! goes into the root, and its init before the real one, which it starts in the end.
//! Facts: LTSP's initrd-bottom.

use crate::{Act, Change};

/// The client part.
const SHARE: &str = "/usr/share/ltsp";

/// Its init, by which it is known.
pub const INIT: &str = "/usr/share/ltsp/client/init/init";

/// Its files.
pub fn files() -> [Change; 3] {
    let copy = |from: &str| Change::new(Act::Copy(false), from, from);
    [Change::new(Act::Directory, "/run/ltsp/client", ""), copy(SHARE), copy("/etc/ltsp")]
}

/// Its service, and its init in the place of the real one.
pub fn links() -> [Change; 9] {
    const UNIT: &str = "/lib/systemd/system/ltsp.service";
    const WANTED: &str = "/lib/systemd/system/multi-user.target.wants/ltsp.service";
    let remove = |path: &str| Change::new(Act::Remove, path, "");
    [
        Change::new(Act::Rename, "/sbin/init.ltsp", "/sbin/init"),
        remove("/usr/sbin/ltsp"),
        Change::new(Act::Link, "/usr/sbin/ltsp", "../share/ltsp/ltsp"),
        remove(UNIT),
        Change::new(Act::Link, UNIT, "../../../usr/share/ltsp/common/service/ltsp.service"),
        remove(WANTED),
        Change::new(Act::Link, WANTED, "../ltsp.service"),
        remove("/sbin/init"),
        Change::new(Act::Link, "/sbin/init", "../../usr/share/ltsp/client/init/init"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_image_s_init_steps_aside_before_ltsp_s_takes_its_place() {
        let links: alloc::vec::Vec<String> = links().iter().map(ToString::to_string).collect();
        assert_eq!(links[0], "rename /sbin/init to /sbin/init.ltsp");
        assert_eq!(links[8], "link /sbin/init to ../../usr/share/ltsp/client/init/init");
        assert_eq!(files().len(), 3);
    }
}
