//! What goes on, on a terminal: the address that clients will see, the services, every
//! client live, and what happened. The same that the web page shows.

use crate::failure::Failure;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table, Wrap};
use share::ending::Ending;
use share::event::{Client, Event, Stage, Watch};
use share::services::SERVICES;
use share::session::Session;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at what changed.
const TICK: Duration = Duration::from_millis(500);
/// What happened that is remembered.
const RECENT: usize = 200;
/// Steps from the first question to a system that is up.
const STEPS: usize = 7;

/// What happened, for the view; other threads write it.
#[derive(Debug, Default)]
pub struct Log(Mutex<VecDeque<(String, bool)>>);

impl Log {
    /// Something happened.
    pub fn tell(&self, event: &Event) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() >= RECENT {
            log.pop_front();
        }
        let bad = matches!(event, Event::Warning(_) | Event::Refused { .. } | Event::Broken(_));
        log.push_back((event.to_string(), bad));
    }
}

/// A client's bytes and rate.
type Rates = BTreeMap<String, (u64, u64)>;

/// Shows it all until the person or the system wants an end.
///
/// # Errors
/// [`Failure`] when the terminal cannot be read, drawn to or restored.
pub fn show(session: &Session, watch: &Watch, log: &Log, ending: &Ending) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::Failed(format!("cannot use the terminal: {e}"));
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let mut rates = Rates::new();
    let mut next = Instant::now();
    let mut since = Instant::now();
    let result = loop {
        if ending.came() {
            break Ok(());
        }
        if Instant::now() >= next {
            measure(&mut rates, &watch.clients(), since.elapsed());
            (since, next) = (Instant::now(), Instant::now() + TICK);
            if let Err(e) = terminal.draw(|frame| draw(frame, session, watch, log, &rates)) {
                break Err(failed(e));
            }
        }
        let wait = next.saturating_duration_since(Instant::now());
        let input = match event::poll(wait) {
            Ok(true) => event::read(),
            Ok(false) => continue,
            Err(e) => Err(e),
        };
        match input {
            Ok(Input::Key(key)) if key.kind == KeyEventKind::Press => {
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('q') => break Ok(()),
                    KeyCode::Char('c') if control => break Ok(()),
                    KeyCode::Char(digit) => {
                        let number = digit.to_digit(10).and_then(|n| n.checked_sub(1));
                        let service = number.and_then(|n| SERVICES.get(n as usize));
                        if let Some((service, _)) = service {
                            watch.switches.set(*service, !watch.switches.is_on(*service));
                        }
                    }
                    _ => {}
                }
                next = Instant::now();
            }
            Ok(_) => next = Instant::now(),
            Err(e) => break Err(failed(e)),
        }
    };
    ratatui::restore();
    result
}

fn measure(rates: &mut Rates, clients: &BTreeMap<String, Client>, time: Duration) {
    let before = std::mem::take(rates);
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(0).max(1);
    for (who, client) in clients {
        let old = before.get(who).map_or(client.bytes, |(bytes, _)| *bytes);
        let new = client.bytes.saturating_sub(old).saturating_mul(1000) / milliseconds;
        rates.insert(who.clone(), (client.bytes, new));
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    }
}

/// How far a client is, of [`STEPS`].
fn step(stage: &Stage) -> usize {
    match stage {
        Stage::Asked { .. } => 1,
        Stage::Loader(_) => 2,
        Stage::Menu => 3,
        Stage::Kernel => 4,
        Stage::Initrd => 5,
        Stage::Mounted(_) | Stage::Disk(_) => 6,
        Stage::Up => STEPS,
    }
}

fn draw(frame: &mut Frame<'_>, session: &Session, watch: &Watch, log: &Log, rates: &Rates) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let faint = Style::new().add_modifier(Modifier::DIM);
    let clients = watch.clients();
    // Two lines of frame and a head; at least one for "No clients yet".
    let lines = u16::try_from(clients.len().max(1)).unwrap_or(u16::MAX).saturating_add(3);
    let half = frame.area().height / 2;
    let areas = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Length(lines.min(half.max(4))),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .split(frame.area());
    let [head, services, table, happened, keys] = areas.as_ref() else { return };

    let entries: Vec<&str> = session.menu.entries.iter().map(|e| e.title.as_str()).collect();
    let about = vec![
        Line::from(vec![Span::styled("Sharing ", bold), Span::raw(session.mounts.join(", "))]),
        Line::from(format!("Clients boot: {}", entries.join(" | "))),
        Line::from(vec![Span::raw("In a browser: "), Span::styled(session.page.clone(), faint)]),
    ];
    frame.render_widget(Paragraph::new(about), *head);

    let mut words = Vec::new();
    for (number, (service, name)) in SERVICES.iter().enumerate() {
        let on = watch.switches.is_on(*service);
        let (word, color) = if on { ("on", Color::Green) } else { ("OFF", Color::Red) };
        words.push(Span::raw(format!("{} {} ", number + 1, name.to_uppercase())));
        words.push(Span::styled(word, Style::new().fg(color)));
        words.push(Span::raw("   "));
    }
    frame.render_widget(Paragraph::new(Line::from(words)), *services);

    let mut sorted: Vec<_> = clients.iter().collect();
    sorted.sort_by_key(|(_, client)| std::cmp::Reverse(client.since));
    let rows = sorted.into_iter().map(|(who, client)| {
        let done = client.stage.as_ref().map_or(0, step);
        let bar = format!("{}{}", "#".repeat(done), ".".repeat(STEPS.saturating_sub(done)));
        let stage = client.stage.as_ref().map(Stage::to_string).unwrap_or_default();
        let rate = rates.get(who).map_or(0, |(_, rate)| *rate);
        let rate = if rate > 0 { format!("{}/s", size(rate)) } else { String::new() };
        Row::new([who.clone(), bar, stage, size(client.bytes), rate])
    });
    let widths = [
        Constraint::Length(17),
        Constraint::Length(7),
        Constraint::Min(20),
        Constraint::Length(12),
        Constraint::Length(12),
    ];
    let title = format!(" Clients: {} ", clients.len());
    let block = Block::new().borders(Borders::ALL).title(title);
    if clients.is_empty() {
        let none = "No clients yet: switch a machine on and let it boot from the network.";
        frame.render_widget(Paragraph::new(none).block(block), *table);
    } else {
        let names = Row::new(["Machine", "", "Stage", "Sent", "Rate"]).style(bold);
        frame.render_widget(Table::new(rows, widths).header(names).block(block), *table);
    }

    let log = log.0.lock().unwrap_or_else(PoisonError::into_inner);
    let room = usize::from(happened.height.saturating_sub(2));
    let latest = log.iter().skip(log.len().saturating_sub(room)).map(|(text, bad)| {
        let style = if *bad { bold.fg(Color::Red) } else { Style::new() };
        Line::styled(text.as_str(), style)
    });
    let block = Block::new().borders(Borders::ALL).title(" What happened ");
    let text = Paragraph::new(latest.collect::<Vec<_>>()).wrap(Wrap { trim: false }).block(block);
    frame.render_widget(text, *happened);
    let help = "q ends it and leaves nothing behind   1 to 5 switch a service off and on";
    frame.render_widget(Paragraph::new(Line::styled(help, faint)), *keys);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(watch: &Watch, log: &Log, width: u16, height: u16) -> String {
        let at = "10.0.0.1:8080".parse().unwrap();
        let session = Session {
            http: at,
            nfs: at,
            nbd: at,
            page: "http://10.0.0.1:8080/#secret".into(),
            mounts: vec!["10.0.0.1:/debian".into()],
            menu: cpio_builder::menu::Menu::default(),
            first: String::new(),
        };
        let mut rates = Rates::new();
        measure(&mut rates, &watch.clients(), TICK);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &session, watch, log, &rates)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content.chunks(usize::from(width));
        lines.map(|line| line.iter().map(|c| c.symbol()).collect::<String>() + "\n").collect()
    }

    #[test]
    fn what_a_person_sees() {
        let (watch, log) = (Watch::new(|_| ()), Log::default());
        let empty = screen(&watch, &log, 100, 24);
        assert!(empty.contains("Sharing 10.0.0.1:/debian"), "{empty}");
        assert!(empty.contains("No clients yet") && empty.contains("5 NBD on"), "{empty}");
        watch.reached("52:54:00:00:00:01", Stage::Kernel);
        watch.sent("52:54:00:00:00:01", 2_500_000);
        watch.switches.set(SERVICES[3].0, false);
        log.tell(&Event::Warning("a cable was pulled".into()));
        let seen = screen(&watch, &log, 100, 24);
        assert!(seen.contains("52:54:00:00:00:01 ####... loads the kernel"), "{seen}");
        assert!(seen.contains("2.5 MB") && seen.contains("4 NFS OFF"), "{seen}");
        assert!(seen.contains("warning: a cable was pulled"), "{seen}");
        // Small terminals show less and do not fail.
        for (width, height) in [(1, 1), (20, 5), (80, 10)] {
            screen(&watch, &log, width, height);
        }
    }

    #[test]
    fn rates() {
        let watch = Watch::new(|_| ());
        watch.sent("a", 1000);
        let mut rates = Rates::new();
        measure(&mut rates, &watch.clients(), TICK);
        assert_eq!(rates["a"], (1000, 0));
        watch.sent("a", 1000);
        measure(&mut rates, &watch.clients(), TICK);
        assert_eq!(rates["a"], (2000, 2000));
    }
}
