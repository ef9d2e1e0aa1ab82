//! Reading the recorded transcripts.
#![allow(dead_code)]

/// Something on the wire.
#[derive(Debug, Clone)]
pub enum Event {
    Open { conn: u32, from: String, to: String },
    Data { conn: u32, from: String, parts: Vec<Part> },
    Fin { conn: u32, from: String },
    Udp { from: String, to: String, bytes: Vec<u8> },
}

/// Bytes, or a range of the payload.
#[derive(Debug, Clone)]
pub enum Part {
    Bytes(Vec<u8>),
    Payload { offset: usize, len: usize },
}

impl Part {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(b) => b.clone(),
            Self::Payload { offset, len } => payload(*offset, *len),
        }
    }
}

/// The payload of all runs: 32-bit little-endian numbers, counted up.
pub fn payload(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|i| ((i / 4) as u32).to_le_bytes()[i % 4]).collect()
}

pub fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).unwrap()).collect()
}

pub fn read(name: &str) -> Vec<Event> {
    let path = format!("{}/tests/transcripts/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().filter(|l| !l.starts_with('#')).map(event).collect()
}

fn event(line: &str) -> Event {
    let words: Vec<&str> = line.split(' ').collect();
    let parts = |words: &[&str]| -> Vec<Part> {
        words
            .iter()
            .map(|w| match w.split_once('+') {
                Some((o, l)) => {
                    Part::Payload { offset: o.parse().unwrap(), len: l.parse().unwrap() }
                }
                None => Part::Bytes(hex(w)),
            })
            .collect()
    };
    let owned = |s: &str| s.to_owned();
    match words[0] {
        "open" => Event::Open {
            conn: words[1].parse().unwrap(),
            from: owned(words[2].split(':').next().unwrap()),
            to: owned(words[3]),
        },
        "data" => Event::Data {
            conn: words[1].parse().unwrap(),
            from: owned(words[2]),
            parts: parts(&words[3..]),
        },
        "fin" => Event::Fin { conn: words[1].parse().unwrap(), from: owned(words[2]) },
        "udp" => {
            let (from, to) = words[1].split_once('>').unwrap();
            Event::Udp {
                from: owned(from),
                to: owned(to),
                bytes: parts(&words[2..]).iter().flat_map(Part::bytes).collect(),
            }
        }
        other => panic!("{other}"),
    }
}
