//! A browser that opens what `bellwether share` serves.

use std::path::Path;

use crate::lab::Lab;
use crate::shell::Daemon;
use crate::{Error, Result, packages};

impl Lab {
    /// Chromium without a window.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not start.
    pub fn browser(&self) -> Result<Browser<'_>> {
        packages::ensure_all(&[
            ("chromium", "a browser"),
            ("chromium-driver", "a hand that holds its mouse"),
            ("curl", "what speaks to that"),
        ])?;
        let mut driver = self.namespace().command("chromedriver");
        driver.arg("--port=9515").env("HOME", self.scratch("browser")?);
        let log = self.directory().join("chromedriver.log");
        let daemon = self.namespace().server("chromedriver", driver, &log, 9515)?;
        let mut browser = Browser { lab: self, session: String::new(), _daemon: daemon };
        let options = r#"{"capabilities":{"alwaysMatch":{"goog:chromeOptions":{"args":
            ["--headless=new","--no-sandbox","--disable-gpu","--disable-dev-shm-usage",
             "--window-size=1100,900"]}}}}"#;
        let said = browser.post("", options)?;
        let id = said.split("\"sessionId\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let id = id.ok_or_else(|| Error::Input(format!("no session: {said}")))?;
        browser.session = format!("/{id}");
        Ok(browser)
    }
}

/// A browser, driven by the WebDriver protocol (W3C WebDriver 1).
#[derive(Debug)]
pub struct Browser<'lab> {
    lab: &'lab Lab,
    session: String,
    _daemon: Daemon,
}

impl Browser<'_> {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:9515/session{}{path}", self.session)
    }

    fn post(&self, path: &str, json: &str) -> Result<String> {
        let type_ = "Content-Type: application/json";
        let curl = ["curl", "--silent", "--show-error", "--fail-with-body", "-H", type_, "-d"];
        self.lab.namespace().run(&[&curl[..], &[json, &self.url(path)]].concat())
    }

    /// Opens a page.
    ///
    /// # Errors
    /// [`Error::Command`] when it does not load.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &format!("{{\"url\":\"{url}\"}}")).map(drop)
    }

    /// Runs a script without quotes in it; its result as JSON.
    ///
    /// # Errors
    /// [`Error::Command`] when it throws.
    pub fn run(&self, script: &str) -> Result<String> {
        let body = format!("{{\"script\":\"{script}\",\"args\":[]}}");
        let said = self.post("/execute/sync", &body)?;
        let value = said.trim().strip_prefix("{\"value\":").and_then(|v| v.strip_suffix('}'));
        value.map(str::to_owned).ok_or(Error::Input(said))
    }

    /// Clicks, as a mouse does, on what a CSS selector finds.
    ///
    /// # Errors
    /// [`Error::Command`] when there is no such thing, or it cannot be clicked.
    pub fn click(&self, selector: &str) -> Result<()> {
        let body = format!("{{\"using\":\"css selector\",\"value\":\"{selector}\"}}");
        let said = self.post("/element", &body)?;
        let id = said.rsplit('"').nth(1).unwrap_or_default().to_owned();
        self.post(&format!("/element/{id}/click"), "{}").map(drop)
    }

    /// Makes the window this large.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot.
    pub fn size(&self, width: u32, height: u32) -> Result<()> {
        let body = format!("{{\"width\":{width},\"height\":{height}}}");
        self.post("/window/rect", &body).map(drop)
    }

    /// Writes what the window shows to a PNG file.
    ///
    /// # Errors
    /// [`Error::Command`] when it cannot.
    pub fn screenshot(&self, to: &Path) -> Result<()> {
        let script = "curl --silent --fail \"$1\" | sed 's/^{\"value\":\"//; s/\"}$//' | \
                      base64 --decode >\"$2\"";
        let (url, to) = (self.url("/screenshot"), to.to_string_lossy().into_owned());
        self.lab.namespace().run(&["sh", "-c", script, "sh", &url, &to]).map(drop)
    }
}
