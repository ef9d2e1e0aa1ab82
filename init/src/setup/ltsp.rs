//! LTSP: its init goes before the real one. Facts: LTSP's initrd-bottom.

use alloc::format;

use sys::errno::Shown;
use sys::file::{make_dir, read_file};

use crate::copy::{self, Progress};
use crate::machine::Machine;
use crate::newroot::ROOT;

/// Puts LTSP's client part into the root, when `ltsp.img` lies beside us: its init
/// goes before the real one, which it starts in the end.
pub fn set_up(machine: &mut Machine) {
    const SHARE: &str = "/usr/share/ltsp";
    if read_file(&format!("{SHARE}/client/init/init"), 1).is_err() {
        return;
    }
    let _ = make_dir("/run/ltsp/client", 0o755);
    for from in [SHARE, "/etc/ltsp"] {
        let to = [ROOT, from].concat();
        let _ = make_dir(&to, 0o755);
        let mut progress = Progress::new("LTSP's client", copy::tree_size(from));
        if let Err((path, errno)) = copy::tree(&mut machine.log, from, &to, &mut progress) {
            machine.log.warn(&format!("{path}: {}; LTSP's client is not in place", Shown(errno)));
            return;
        }
    }
    let service = "../../../usr/share/ltsp/common/service/ltsp.service";
    let units = format!("{ROOT}/lib/systemd/system");
    let _ = make_dir(&format!("{units}/multi-user.target.wants"), 0o755);
    let init = format!("{ROOT}/sbin/init");
    let _ = rustix::fs::rename(init.as_str(), format!("{init}.ltsp").as_str());
    for (to, at) in [
        ("../share/ltsp/ltsp", format!("{ROOT}/usr/sbin/ltsp")),
        (service, format!("{units}/ltsp.service")),
        ("../ltsp.service", format!("{units}/multi-user.target.wants/ltsp.service")),
        ("../../usr/share/ltsp/client/init/init", init.clone()),
    ] {
        let _ = rustix::fs::unlink(at.as_str());
        let _ = rustix::fs::symlink(to, at.as_str());
    }
    machine.log.info("LTSP's init comes first");
}
