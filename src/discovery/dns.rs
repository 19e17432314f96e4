//! The messages of multicast DNS (RFC 1035, 6762, 6763), as far as a service on a local network
//! needs them: questions, and five types of records. Everybody on the link can send anything, so
//! what is read costs no more memory than its bytes and these limits allow, and always ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest message, bytes (RFC 6762, section 17).
pub(crate) const MESSAGE_BYTES_MAX: usize = 9000;
/// Longest name as it is written, bytes (RFC 1035, section 3.1).
const NAME_BYTES_MAX: usize = 255;
/// Longest part of a name, bytes (the same).
const LABEL_BYTES_MAX: u8 = 63;
/// Most pointers of one name: one that is written has one or two.
const POINTERS_MAX: usize = 32;
/// Most questions and most records that are looked at in one message: an answer of ours has five,
/// and a responder that has gathered what all programs of its host announce has some dozens.
const PARTS_MAX: usize = 128;

/// In the class of a record: it replaces all others of its name and type (RFC 6762, section 10.2).
const FLUSH: u16 = 0x8000;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
#[cfg(test)]
const HEADER_BYTES: usize = 12;
const POINTER: u8 = 0xC0;
/// Largest offset that a pointer can name.
const POINTER_MAX: usize = 0x3FFF;

/// What is asked for, or what a record holds.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const ANY: u16 = 255;
}

/// A name as it is written without pointers, in small letters: case makes no difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Takes the parts of a name, each of which has 1 to 63 bytes.
    pub(crate) fn new<'a>(labels: impl IntoIterator<Item = &'a str>) -> Self {
        let mut name = Vec::new();
        for label in labels {
            let bytes = label.as_bytes();
            let bytes = bytes.get(..usize::from(LABEL_BYTES_MAX)).unwrap_or(bytes);
            name.push(u8::try_from(bytes.len()).unwrap_or(LABEL_BYTES_MAX));
            name.extend(bytes.iter().map(u8::to_ascii_lowercase));
        }
        name.push(0);
        Self(name)
    }

    /// Its first part, where the rest is this.
    pub(crate) fn label_before(&self, rest: &Self) -> Option<&[u8]> {
        let (length, after) = self.0.split_first()?;
        let (label, is) = after.split_at_checked(usize::from(*length))?;
        (!label.is_empty() && is == rest.0).then_some(label)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// An instance of a service, or a service.
    Ptr(Name),
    /// Port and host of an instance.
    Srv(u16, Name),
    /// What else is to be known of it: texts, each behind its length.
    Txt(Vec<u8>),
    /// An address of a host.
    Ip(IpAddr),
}

impl Data {
    fn kind(&self) -> u16 {
        match self {
            Self::Ptr(_) => kind::PTR,
            Self::Srv(..) => kind::SRV,
            Self::Txt(_) => kind::TXT,
            Self::Ip(IpAddr::V4(_)) => kind::A,
            Self::Ip(IpAddr::V6(_)) => kind::AAAA,
        }
    }
}

/// A record of one of those types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: Name,
    /// How long it may be believed, s; 0 takes it back.
    pub(crate) ttl: u32,
    pub(crate) data: Data,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: u16,
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Whether it answers; else it asks, and its records are what the asker knows.
    pub(crate) is_answer: bool,
    pub(crate) questions: Vec<Question>,
    /// Those of all sections.
    pub(crate) records: Vec<Record>,
}

impl Message {
    /// Reads a message; nothing where it is none, or one that a reader has to leave alone.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return None;
        }
        let mut reader = Reader { bytes, at: 0 };
        let (_, flags) = (reader.u16()?, reader.u16()?);
        // Another operation than a query, or an error (RFC 6762, sections 18.3 and 18.11).
        if flags & 0x780F != 0 {
            return None;
        }
        let (questions, answers) = (reader.u16()?, reader.u16()?);
        let rest = [reader.u16()?, reader.u16()?];
        let records = rest.iter().fold(usize::from(answers), |sum, it| sum + usize::from(*it));
        if usize::from(questions) > PARTS_MAX || records > PARTS_MAX {
            return None;
        }
        let mut message = Self { is_answer: flags & 0x8000 != 0, ..Self::default() };
        for _ in 0..questions {
            let (name, kind, class) = (reader.name()?, reader.u16()?, reader.u16()?);
            if matches!(class & !FLUSH, CLASS_IN | CLASS_ANY) {
                message.questions.push(Question { name, kind });
            }
        }
        for _ in 0..records {
            message.records.extend(reader.record()?);
        }
        Some(message)
    }

    /// What is said of a name, and not taken back.
    pub(crate) fn of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.ttl > 0 && record.name == *name)
    }

    /// Its bytes.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let flags = if self.is_answer { 0x8400 } else { 0 };
        for number in [0, flags, count(self.questions.len()), count(self.records.len()), 0, 0] {
            writer.u16(number);
        }
        for question in &self.questions {
            writer.name(&question.name);
            writer.u16(question.kind);
            writer.u16(CLASS_IN);
        }
        for record in &self.records {
            writer.record(record);
        }
        writer.bytes
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A name. Each pointer leads to an earlier place than the one before, so it ends; and there
    /// are few of them, as hundreds of names may each lead through thousands.
    fn name(&mut self) -> Option<Name> {
        let mut name = Vec::new();
        let (mut place, mut behind) = (Reader { bytes: self.bytes, at: self.at }, None);
        let (mut first, mut pointers) = (self.at, 0);
        loop {
            let length = place.u8()?;
            if length & POINTER == POINTER {
                let low = place.u8()?;
                behind.get_or_insert(place.at);
                let to = usize::from(u16::from_be_bytes([length & !POINTER, low]));
                pointers += 1;
                if to >= first || pointers > POINTERS_MAX {
                    return None;
                }
                (first, place.at) = (to, to);
            } else if length > LABEL_BYTES_MAX {
                return None;
            } else {
                name.push(length);
                name.extend(place.take(usize::from(length))?.iter().map(u8::to_ascii_lowercase));
                if name.len() > NAME_BYTES_MAX {
                    return None;
                }
                if length == 0 {
                    self.at = behind.unwrap_or(place.at);
                    return Some(Name(name));
                }
            }
        }
    }

    /// A record: `Some(None)` where it is of another type or class.
    fn record(&mut self) -> Option<Option<Record>> {
        let name = self.name()?;
        let (kind, class, ttl, length) = (self.u16()?, self.u16()?, self.u32()?, self.u16()?);
        let begin = self.at;
        let bytes = self.take(usize::from(length))?;
        if class & !FLUSH != CLASS_IN {
            return Some(None);
        }
        let end = self.at;
        let mut inside = Reader { bytes: self.bytes, at: begin };
        let data = match kind {
            kind::PTR => Data::Ptr(inside.name()?),
            kind::SRV => {
                // Priority and weight: there is one place alone.
                inside.take(4)?;
                Data::Srv(inside.u16()?, inside.name()?)
            }
            kind::TXT => Data::Txt(bytes.to_vec()),
            kind::A => Data::Ip(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
            kind::AAAA => Data::Ip(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
            _ => return Some(None),
        };
        let has_own_end = matches!(kind, kind::PTR | kind::SRV);
        if has_own_end && inside.at != end {
            return None;
        }
        Some(Some(Record { name, ttl, data }))
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Names and their ends that are there already, and where.
    known: Vec<(Vec<u8>, u16)>,
}

impl Writer {
    fn u16(&mut self, number: u16) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    fn name(&mut self, name: &Name) {
        let mut rest = name.0.as_slice();
        while let Some((length, after)) = rest.split_first().filter(|(length, _)| **length > 0) {
            if let Some((_, at)) = self.known.iter().find(|(known, _)| known == rest) {
                let at = *at;
                return self.u16(u16::from(POINTER) << 8 | at);
            }
            let here = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
            if usize::from(here) <= POINTER_MAX {
                self.known.push((rest.to_vec(), here));
            }
            let (label, next) = after.split_at_checked(usize::from(*length)).unwrap_or_default();
            self.bytes.push(*length);
            self.bytes.extend_from_slice(label);
            rest = next;
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.u16(record.data.kind());
        // Of a service there are many instances; all else is of its owner alone.
        let is_shared = matches!(record.data, Data::Ptr(_));
        self.u16(if is_shared { CLASS_IN } else { CLASS_IN | FLUSH });
        self.bytes.extend_from_slice(&record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.u16(0);
        match &record.data {
            Data::Ptr(name) => self.name(name),
            Data::Srv(port, host) => {
                self.bytes.extend_from_slice(&[0; 4]);
                self.u16(*port);
                self.name(host);
            }
            Data::Txt(texts) => self.bytes.extend_from_slice(texts),
            Data::Ip(IpAddr::V4(ip)) => self.bytes.extend_from_slice(&ip.octets()),
            Data::Ip(IpAddr::V6(ip)) => self.bytes.extend_from_slice(&ip.octets()),
        }
        let length = self.bytes.len() - length_at - 2;
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        if let Some(place) = self.bytes.get_mut(length_at..length_at + 2) {
            place.copy_from_slice(&length);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn answer() -> Message {
        let service = Name::new(["_dsn", "_tcp", "local"]);
        let instance = Name::new(["0a", "_dsn", "_tcp", "local"]);
        let host = Name::new(["0b", "local"]);
        let record = |name: &Name, data| Record { name: name.clone(), ttl: 120, data };
        let records = vec![
            record(&service, Data::Ptr(instance.clone())),
            record(&instance, Data::Srv(8000, host.clone())),
            record(&instance, Data::Txt(b"\x03t=1".to_vec())),
            record(&host, Data::Ip("10.0.0.1".parse().unwrap())),
            record(&host, Data::Ip("fe80::1".parse().unwrap())),
        ];
        Message { is_answer: true, questions: Vec::new(), records }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = answer().write();
        assert_eq!(Message::read(&bytes), Some(answer()));
        assert!(bytes.len() < 170, "names are written once: {}", bytes.len());
        let question = Question { name: Name::new(["_dsn", "_tcp", "local"]), kind: kind::PTR };
        let asks = Message { questions: vec![question], ..Message::default() };
        assert_eq!(Message::read(&asks.write()), Some(asks));
    }

    #[test]
    fn a_label_stands_before_the_service_alone() {
        let service = Name::new(["_dsn", "_tcp", "local"]);
        let label = |labels: &[&str]| {
            let name = Name::new(labels.iter().copied());
            name.label_before(&service).map(<[u8]>::to_vec)
        };
        assert_eq!(label(&["AB", "_dsn", "_TCP", "local"]), Some(b"ab".to_vec()));
        for other in [&["_dsn", "_tcp", "local"][..], &["a", "b", "_dsn", "_tcp", "local"], &["a"]]
        {
            assert_eq!(label(other), None);
        }
    }

    /// One question whose name is what follows the header.
    fn with_name(name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[5] = 1;
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 12, 0, 1]);
        bytes
    }

    #[test]
    fn pointers_lead_back_and_names_end() {
        assert!(Message::read(&with_name(&[1, b'a', 0])).is_some());
        for (name, why) in [
            (&[0xC0, 12][..], "to itself"),
            (&[0xC0, 14], "forward"),
            (&[1, b'a', 0xC0, 12], "around"),
            (&[0xC0], "cut"),
            (&[64, 0], "a kind of label that is none"),
            (&[5, b'a'], "cut in a label"),
        ] {
            assert_eq!(Message::read(&with_name(name)), None, "{why}");
        }
        let long: Vec<u8> = [vec![63], vec![b'x'; 63]].concat().repeat(4);
        assert_eq!(Message::read(&with_name(&[long, vec![0]].concat())), None, "256 bytes");
    }

    #[test]
    fn a_name_has_a_few_pointers() {
        for (pointers, is_read) in [(1, true), (POINTERS_MAX - 1, true), (4_000, false)] {
            // A record of no use that holds a name, and pointers each to the one before.
            let mut bytes = vec![0; HEADER_BYTES];
            (bytes[2], bytes[7]) = (0x84, 2);
            bytes.extend_from_slice(&[0, 0, 99, 0, 1, 0, 0, 0, 0]);
            let length = u16::try_from(3 + 2 * pointers).unwrap();
            bytes.extend_from_slice(&length.to_be_bytes());
            let mut to = u16::try_from(bytes.len()).unwrap();
            bytes.extend_from_slice(&[1, b'a', 0]);
            for _ in 0..pointers {
                let here = u16::try_from(bytes.len()).unwrap();
                bytes.extend_from_slice(&(0xC000 | to).to_be_bytes());
                to = here;
            }
            bytes.extend_from_slice(&(0xC000 | to).to_be_bytes());
            bytes.extend_from_slice(&[0, 16, 0, 1, 0, 0, 0, 9, 0, 0]);
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            let message = Message::read(&bytes);
            assert_eq!(message.is_some(), is_read, "{pointers}");
            assert!(message.is_none_or(|it| it.records[0].name == Name::new(["a"])));
        }
    }

    #[test]
    fn what_is_to_be_left_alone_is() {
        let good = answer().write();
        for (at, byte) in [(2, 0x84 | 0x28), (3, 3), (4, 255), (10, 255)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(Message::read(&bytes), None, "{at}");
        }
        let longer = [good.clone(), vec![0; MESSAGE_BYTES_MAX]].concat();
        assert_eq!(Message::read(&longer), None);
        for length in 0..good.len() {
            assert_eq!(Message::read(&good[..length]), None, "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600)
        ) {
            // Most garbage falls at the header.
            if let Some(head) = bytes.get_mut(2..HEADER_BYTES) {
                head.copy_from_slice(&[0x84, 0, 0, 1, 0, 9, 0, 0, 0, 0]);
            }
            if let Some(message) = Message::read(&bytes) {
                let again = Message::read(&message.write());
                prop_assert_eq!(again, Some(message));
            }
        }

        #[test]
        fn one_wrong_byte_does_no_harm(at in 0usize..150, byte: u8) {
            let mut bytes = answer().write();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Message::read(&bytes);
        }
    }
}
