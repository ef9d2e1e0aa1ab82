//! Servers of files that send too little, too much, the wrong thing, or nothing.

use std::io::{self, Write};
use std::net::TcpStream;

use super::row::{Ends, Fault, Room, client};
use crate::lab::Lab;
use crate::servers::web::{head, hold, serve};
use crate::servers::{Asked, Tail};
use crate::{Error, Result};

const HTTP: &str = "bw.root=http://10.77.0.1/root.squashfs bw.overlay";
const TFTP: &str = "bw.root=tftp://10.77.0.1:1069/root.squashfs bw.overlay";

/// The same, with an end to the whole boot: what a server does again and again is waited for.
const HTTP_40: &str = "bw.root=http://10.77.0.1/root.squashfs bw.overlay bw.timeout=40";
const TFTP_40: &str = "bw.root=tftp://10.77.0.1:1069/root.squashfs bw.overlay bw.timeout=40";

pub(super) const ROWS: &[Fault] = &[
    Fault {
        name: "http-length-too-small",
        what: "Content-Length is half of the image; all of it follows",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |image, _, stream| {
                let length = format!("Content-Length: {}", image.len() / 2);
                head(stream, "200 OK", &[&length])?;
                stream.write_all(image)
            })
        },
        says: &["FAILED", "root.squashfs: ", "is cut short"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-length-too-large",
        what: "Content-Length is more than the image, each time, and there are no ranges",
        line: HTTP_40,
        room: |lab, line| {
            http(lab, line, |image, _, stream| {
                let length = format!("Content-Length: {}", image.len() + 1000);
                head(stream, "200 OK", &[&length])?;
                stream.write_all(image)
            })
        },
        says: &[
            "the connection ended before the file did; going on at byte",
            "FAILED: could not",
            "the connection ended before the file did",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-cut-once",
        what: "the connection ends in the middle, once",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |image, asked, stream| match asked.nth {
                0 => {
                    head(stream, "200 OK", &[&format!("Content-Length: {}", image.len())])?;
                    stream.write_all(image.get(..image.len() / 2).unwrap_or_default())
                }
                _ => serve(image, asked, stream),
            })
        },
        says: &[
            "the connection ended before the file did; going on at byte",
            "fetched",
            "ready in",
        ],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "http-cut-without-length",
        what: "the server announces no length, and the connection ends in the middle",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |image, _, stream| {
                head(stream, "200 OK", &[])?;
                stream.write_all(image.get(..image.len() / 2).unwrap_or_default())
            })
        },
        says: &["FAILED", "root.squashfs: ", "is cut short"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-redirect-loop",
        what: "each answer redirects to another page of the same server",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |_, asked, stream| {
                head(stream, "302 Found", &[&format!("Location: /again/{}", asked.nth)])
            })
        },
        says: &["FAILED", "more than 10 redirections, probably in a circle"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-no-answer",
        what: "the server takes the connection and says nothing",
        line: HTTP_40,
        room: |lab, line| http(lab, line, |_, _, stream| hold(stream)),
        says: &["timed out", "trying again", "FAILED: could not", "timed out"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-stalls",
        what: "the server stops in the middle, once, and keeps the connection",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |image, asked, stream| match asked.nth {
                0 => {
                    head(stream, "200 OK", &[&format!("Content-Length: {}", image.len())])?;
                    stream.write_all(image.get(..image.len() / 2).unwrap_or_default())?;
                    hold(stream)
                }
                _ => serve(image, asked, stream),
            })
        },
        says: &["timed out (ETIMEDOUT); going on at byte", "fetched", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "http-drips",
        what: "the server sends a byte a second, which will not end in a life",
        line: "bw.root=http://10.77.0.1/root.squashfs bw.overlay bw.timeout=30",
        room: |lab, line| {
            http(lab, line, |image, _, stream| {
                head(stream, "200 OK", &[&format!("Content-Length: {}", image.len())])?;
                image.iter().try_for_each(|byte| {
                    stream.write_all(&[*byte])?;
                    std::thread::sleep(std::time::Duration::from_secs(1));
                    Ok(())
                })
            })
        },
        says: &["FAILED: could not finish in time", "source: was not done 30 s after"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-not-http",
        what: "something else listens there: an SSH server",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |_, _, stream| stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"))
        },
        says: &["FAILED", "malformed answer (status line); not a web server?"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-a-page-instead",
        what: "a captive portal answers every request with its page",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |_, _, stream| {
                let page = "<!DOCTYPE html><title>Please log in</title>";
                let length = format!("Content-Length: {}", page.len());
                head(stream, "200 OK", &["Content-Type: text/html", &length])?;
                stream.write_all(page.as_bytes())
            })
        },
        says: &["FAILED", "root.squashfs: "],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-another-file-in-the-middle",
        what: "the connection ends in the middle, and the file has changed by then",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |image, asked, stream| {
                let length = format!("Content-Length: {}", image.len());
                let tag = format!("ETag: \"{}\"", asked.nth);
                head(stream, "200 OK", &[&length, &tag])?;
                stream.write_all(image.get(..image.len() / 2).unwrap_or_default())
            })
        },
        says: &["FAILED", "the file changed on the server while it was being fetched"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-without-end",
        what: "no length, and bytes without end",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |_, _, stream| {
                head(stream, "200 OK", &[])?;
                let noise = [0x5a; 1 << 16];
                loop {
                    stream.write_all(&noise)?;
                }
            })
        },
        says: &["FAILED", "does not fit into memory"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "http-errors-once",
        what: "the server is overloaded (503), and has recovered by the next request",
        line: HTTP,
        room: |lab, line| {
            http(lab, line, |image, asked, stream| match asked.nth {
                0 => head(stream, "503 Service Unavailable", &["Content-Length: 0"]),
                _ => serve(image, asked, stream),
            })
        },
        says: &["503, an error of the server's own; trying again", "fetched", "ready in"],
        ends: Ends::Boots,
        quick: false,
    },
    Fault {
        name: "http-wrong-image",
        what: "another image than the line pins",
        line: "bw.root=http://10.77.0.1/root.squashfs bw.overlay bw.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123",
        room: |lab, line| http(lab, line, serve),
        says: &["FAILED", "its sha256 is "],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "tftp-tail-missing",
        what: "the server stops before the last part, each time",
        line: TFTP_40,
        room: |lab, line| tftp(lab, line, Tail::Silent),
        says: &[
            "the server stopped answering",
            "going on at byte",
            "FAILED: could not",
            "the server stopped answering",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "tftp-ends-early",
        what: "the server ends the transfer before the last part",
        line: TFTP,
        room: |lab, line| tftp(lab, line, Tail::Short),
        says: &["FAILED", "root.squashfs: ", "is cut short"],
        ends: Ends::Refuses,
        quick: false,
    },
    Fault {
        name: "tftp-ends-before-its-size",
        what: "the same, after it has announced the whole size",
        line: TFTP_40,
        room: |lab, line| tftp(lab, line, Tail::Announced),
        says: &[
            "the connection ended before the file did; going on at byte",
            "FAILED: could not",
            "the connection ended before the file did",
        ],
        ends: Ends::Refuses,
        quick: false,
    },
];

/// A web server with the small image.
fn http<'l>(
    lab: &'l Lab,
    line: &str,
    answer: fn(&[u8], &Asked, &mut TcpStream) -> io::Result<()>,
) -> Result<Room<'l>> {
    let image = image(lab)?;
    let web = lab.web(move |asked, stream| answer(&image, asked, stream))?;
    Ok(Room::of(client(lab, line)?).with(lab.dhcp().serve()?).with(web))
}

fn tftp<'l>(lab: &'l Lab, line: &str, tail: Tail) -> Result<Room<'l>> {
    let image = image(lab)?;
    let most = image.len() / 2;
    let room = Room::of(client(lab, line)?).with(lab.dhcp().serve()?);
    Ok(room.with(lab.short_tftp(image, most, tail)?))
}

fn image(lab: &Lab) -> Result<Vec<u8>> {
    let image = lab.assets().small_squashfs()?;
    std::fs::read(&image).map_err(Error::at("read", &image))
}
