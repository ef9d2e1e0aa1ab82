//! LTSP: its client part, which the initramfs holds when `ltsp.img` lies beside us,
//! goes into the root, and its init before the real one, which it starts in the end.
//! Facts: LTSP's initrd-bottom.

use alloc::string::{String, ToString};

use crate::changes::Change;

/// The client part.
pub const SHARE: &str = "/usr/share/ltsp";

/// Its files.
#[must_use]
pub fn files() -> [Change; 3] {
    let copy = |from: &str| Change::Copy { from: from.into(), path: from.into(), over: false };
    [Change::Directory(String::from("/run/ltsp/client")), copy(SHARE), copy("/etc/ltsp")]
}

/// Its service, and its init in the place of the real one.
#[must_use]
pub fn links() -> [Change; 9] {
    const UNIT: &str = "/lib/systemd/system/ltsp.service";
    const WANTED: &str = "/lib/systemd/system/multi-user.target.wants/ltsp.service";
    let remove = |path: &str| Change::Remove(path.to_string());
    [
        Change::Rename { from: "/sbin/init".into(), path: "/sbin/init.ltsp".into() },
        remove("/usr/sbin/ltsp"),
        Change::link("/usr/sbin/ltsp", "../share/ltsp/ltsp"),
        remove(UNIT),
        Change::link(UNIT, "../../../usr/share/ltsp/common/service/ltsp.service"),
        remove(WANTED),
        Change::link(WANTED, "../ltsp.service"),
        remove("/sbin/init"),
        Change::link("/sbin/init", "../../usr/share/ltsp/client/init/init"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_s_init_steps_aside_before_ltsp_s_takes_its_place() {
        let links: alloc::vec::Vec<String> = links().iter().map(ToString::to_string).collect();
        assert_eq!(links[0], "rename /sbin/init to /sbin/init.ltsp");
        assert_eq!(links[8], "link /sbin/init to ../../usr/share/ltsp/client/init/init");
        assert_eq!(files().len(), 3);
    }
}
