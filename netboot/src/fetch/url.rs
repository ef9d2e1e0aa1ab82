//! URLs of files to fetch (RFC 3986, the part for files on a server).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The longest URL.
const MAX_URL: usize = 4096;

/// Supported protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// FTP.
    Ftp,
    /// TFTP.
    Tftp,
}

impl Scheme {
    /// The default port.
    pub fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Ftp => 21,
            Scheme::Tftp => 69,
        }
    }
}

/// A parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Protocol.
    pub scheme: Scheme,
    /// User, percent-decoded.
    pub user: Option<String>,
    /// Password, percent-decoded.
    pub password: Option<String>,
    /// Server; empty for the boot server (`http:///path`).
    pub host: String,
    /// TCP or UDP port.
    pub port: u16,
    /// Path and query as written, with a leading slash; printable ASCII only.
    pub path: String,
}

/// Why a URL cannot be used; with the URL, but for its login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlError {
    /// No `scheme://`, or an unknown one.
    Scheme(String),
    /// https, which is not supported.
    Encrypted(String),
    /// The server's name or port is invalid.
    Host(String),
    /// Too long.
    Length,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::Scheme(url) => {
                write!(f, "\"{url}\": expected http://, ftp:// or tftp://")
            }
            UrlError::Encrypted(url) => write!(
                f,
                "\"{url}\": https is not supported; use http:// and pin the file by its digest"
            ),
            UrlError::Host(url) => write!(f, "\"{url}\": no usable server name or port"),
            UrlError::Length => write!(f, "a URL is longer than {MAX_URL} bytes"),
        }
    }
}

impl core::error::Error for UrlError {}

impl Url {
    /// Parses an absolute URL. Fragments are dropped; characters that a request cannot have are
    /// percent-encoded.
    ///
    /// # Errors
    /// [`UrlError`] with the invalid part.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::Length);
        }
        let own = || cmdline::secrets::masked(text);
        let (scheme, rest) = text.split_once("://").ok_or_else(|| UrlError::Scheme(own()))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "ftp" => Scheme::Ftp,
            "tftp" => Scheme::Tftp,
            "https" | "ftps" => return Err(UrlError::Encrypted(own())),
            _ => return Err(UrlError::Scheme(own())),
        };
        let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(split).unwrap_or((rest, ""));
        let (login, server) = match authority.rsplit_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, authority),
        };
        let (host, port) = match server.split_once(':') {
            Some((host, "")) => (host, scheme.port()),
            Some((host, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or_else(|| UrlError::Host(own()))?)
            }
            None => (server, scheme.port()),
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if !host.bytes().all(fits) {
            return Err(UrlError::Host(own()));
        }
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, "")))
        {
            Some((user, "")) => (Some(decode(user)), None),
            Some((user, password)) => (Some(decode(user)), Some(decode(password))),
            None => (None, None),
        };
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url {
            scheme,
            user,
            password,
            host: host.to_owned(),
            port,
            path: format!("{slash}{}", encode(path)),
        })
    }

    /// Resolves a `Location:` header: absolute, or relative to this URL. The login goes along
    /// to the same server only: another port may be another owner's.
    ///
    /// # Errors
    /// [`UrlError`] with the invalid part.
    pub fn join(&self, location: &str) -> Result<Url, UrlError> {
        if location.len() > MAX_URL {
            return Err(UrlError::Length);
        }
        let absolute = match location.strip_prefix("//") {
            Some(rest) => Some(format!("http://{rest}")),
            None => location.contains("://").then(|| location.to_owned()),
        };
        if let Some(absolute) = absolute {
            let mut url = Url::parse(&absolute)?;
            let server = |url: &Url| (url.scheme, url.host.clone(), url.port);
            if server(&url) == server(self) && url.user.is_none() {
                url.user.clone_from(&self.user);
                url.password.clone_from(&self.password);
            }
            return Ok(url);
        }
        let mut url = self.clone();
        let location = location.split('#').next().unwrap_or_default();
        url.path = if location.starts_with('/') {
            encode(location)
        } else {
            let base = self.path.split('?').next().unwrap_or_default();
            let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{}", encode(location))
        };
        Ok(url)
    }

    /// Path without query, percent-decoded, for protocols without queries.
    pub fn file(&self) -> String {
        decode(&self.path)
    }
}

impl fmt::Display for Url {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Ftp => "ftp",
            Scheme::Tftp => "tftp",
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != self.scheme.port() {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

/// Percent-encodes characters that a request line cannot have.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Decodes `%XX`; malformed sequences stay. Control characters are dropped.
pub fn decode(text: &str) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let mut decoded = byte;
        if byte == b'%'
            && let Some((&[high, low], after)) = tail.split_first_chunk::<2>()
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            decoded = high << 4 | low;
            rest = after;
        }
        if !decoded.is_ascii_control() {
            bytes.push(decoded);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts() {
        let url = Url::parse("http://files.lab:8080/live/filesystem.squashfs?x=1#y").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("files.lab", 8080));
        assert_eq!(url.path, "/live/filesystem.squashfs?x=1");
        assert_eq!(url.to_string(), "http://files.lab:8080/live/filesystem.squashfs?x=1");
        let url = Url::parse("ftp://me:p%40ss@10.0.0.1/a%20b").unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me"), Some("p@ss")));
        assert_eq!(url.file(), "/a b");
        assert_eq!(url.to_string(), "ftp://10.0.0.1/a%20b");
        let url = Url::parse("tftp:///vmlinuz").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("", 69));
        assert_eq!(Url::parse("http://h").unwrap().path, "/");
        assert_eq!(Url::parse("HTTP://h?x").unwrap().path, "/?x");
        assert_eq!(Url::parse("http://h/a b\r\nX: y").unwrap().path, "/a%20b%0D%0AX:%20y");
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = |text: &str| Url::parse(text).unwrap_err().to_string();
        assert!(error("https://h/x").contains("pin the file by its digest"));
        assert!(error("h/x").contains("expected http://"));
        assert!(error("http://h:0/").contains("no usable server name or port"));
        assert!(error("http://h:99999/").contains("no usable server"));
        assert!(error("http://[::1]/").contains("no usable server"));
        assert!(error("http://h\r\n/").contains("no usable server"));
        assert!(error(&format!("http://h/{}", "x".repeat(5000))).contains("longer than"));
    }

    #[test]
    fn redirections() {
        let url = Url::parse("http://a/one/two?x").unwrap();
        assert_eq!(url.join("http://b/c").unwrap().to_string(), "http://b/c");
        assert_eq!(url.join("//b/c").unwrap().to_string(), "http://b/c");
        assert_eq!(url.join("/c").unwrap().to_string(), "http://a/c");
        assert_eq!(url.join("c").unwrap().to_string(), "http://a/one/c");
        assert!(url.join("https://b/c").is_err());
    }

    /// It went along to another port of the host.
    #[test]
    fn a_login_stays_with_its_server() {
        let url = Url::parse("http://me:secret@a:8080/x").unwrap();
        let login = |location: &str| {
            let url = url.join(location).unwrap();
            url.user.zip(url.password).is_some_and(|login| login == ("me".into(), "secret".into()))
        };
        for same in ["/y", "y", "http://a:8080/y", "//a:8080/y"] {
            assert!(login(same), "{same}");
        }
        for other in ["http://a/y", "http://a:8081/y", "http://b:8080/y", "ftp://a:8080/y"] {
            assert!(!login(other), "{other}");
        }
    }

    #[test]
    fn an_error_does_not_name_the_login() {
        for text in ["https://me:SECRET@h/x", "http://me:SECRET@h:0/", "gopher://me:SECRET@h/x"] {
            let error = Url::parse(text).unwrap_err();
            assert!(
                !error.to_string().contains("SECRET") && !format!("{error:?}").contains("SECRET")
            );
        }
    }

    proptest! {
        #[test]
        fn requests_stay_on_one_line(text in any::<String>()) {
            for text in [format!("http://h/{text}"), text] {
                if let Ok(url) = Url::parse(&text) {
                    prop_assert!(url.path.bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(url.path.starts_with('/'));
                    let joined = url.join(&text).map(|url| url.path).unwrap_or_default();
                    prop_assert!(joined.bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(!url.file().chars().any(|c| c.is_ascii_control()));
                }
            }
        }
    }
}
