//! Error numbers as text.

use core::fmt;

use rustix::io::Errno;

/// An error number that shows its meaning and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown(pub Errno);

/// The errors that a boot meets; others are shown by number.
const KNOWN: [(Errno, &str, &str); 37] = [
    (Errno::PERM, "EPERM", "not permitted"),
    (Errno::NOENT, "ENOENT", "no such file or directory"),
    (Errno::IO, "EIO", "input/output error"),
    (Errno::NXIO, "ENXIO", "no such device"),
    (Errno::AGAIN, "EAGAIN", "try again"),
    (Errno::NOMEM, "ENOMEM", "out of memory"),
    (Errno::ACCESS, "EACCES", "access denied"),
    (Errno::BUSY, "EBUSY", "busy"),
    (Errno::EXIST, "EEXIST", "already exists"),
    (Errno::NODEV, "ENODEV", "no such device"),
    (Errno::NOTDIR, "ENOTDIR", "not a directory"),
    (Errno::INVAL, "EINVAL", "invalid argument"),
    (Errno::NOSPC, "ENOSPC", "no space left"),
    (Errno::ROFS, "EROFS", "read-only file system"),
    (Errno::PIPE, "EPIPE", "connection closed"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG", "name too long"),
    (Errno::NOSYS, "ENOSYS", "not in this kernel"),
    (Errno::LOOP, "ELOOP", "too many symbolic links"),
    (Errno::BADMSG, "EBADMSG", "malformed message"),
    (Errno::PROTO, "EPROTO", "protocol error"),
    (Errno::PROTONOSUPPORT, "EPROTONOSUPPORT", "protocol not supported"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP", "not supported"),
    (Errno::AFNOSUPPORT, "EAFNOSUPPORT", "address family not in this kernel"),
    (Errno::ADDRINUSE, "EADDRINUSE", "address in use"),
    (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL", "address not ours"),
    (Errno::NETDOWN, "ENETDOWN", "network is down"),
    (Errno::NETUNREACH, "ENETUNREACH", "network is unreachable, no route"),
    (Errno::CONNABORTED, "ECONNABORTED", "connection aborted"),
    (Errno::CONNRESET, "ECONNRESET", "connection reset"),
    (Errno::NOBUFS, "ENOBUFS", "no buffer space"),
    (Errno::NOTCONN, "ENOTCONN", "not connected"),
    (Errno::TIMEDOUT, "ETIMEDOUT", "timed out"),
    (Errno::CONNREFUSED, "ECONNREFUSED", "connection refused"),
    (Errno::HOSTDOWN, "EHOSTDOWN", "host is down"),
    (Errno::HOSTUNREACH, "EHOSTUNREACH", "host is unreachable"),
    (Errno::STALE, "ESTALE", "stale file handle"),
    (Errno::REMOTEIO, "EREMOTEIO", "remote I/O error"),
];

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KNOWN.iter().find(|(errno, ..)| *errno == self.0) {
            Some((_, name, meaning)) => write!(f, "{meaning} ({name})"),
            None => write!(f, "error {}", self.0.raw_os_error()),
        }
    }
}
