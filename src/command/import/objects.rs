//! A text of JSON objects, one by one: lines, objects behind each other however they are broken into lines, or the
//! elements of one array. No more than one object is in memory.

use std::fmt;
use std::io::{self, BufRead};

/// The most bytes of one object, with its white space.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// U+FEFF, which editors put before a text.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot be read")]
    Read(#[from] io::Error),
    #[error("{0}")]
    Refused(String),
}

/// The place where an object begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: u64,
    /// The number of the element, if the object is in an array: an array may have all of its elements in one line.
    pub element: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}", self.line)?;
        self.element.map_or(Ok(()), |element| write!(formatter, ", event {element}"))
    }
}

/// The shape of the text so far, which says what may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Unknown,
    Objects,
    /// The text is an array so far: its place is behind the bracket, behind an element, or behind a comma.
    ArrayBegun,
    ElementEnded,
    CommaPassed,
    ArrayEnded,
}

pub struct Objects<R> {
    input: R,
    text: Vec<u8>,
    shape: Shape,
    place: Place,
    blank_lines: u64,
    /// The line has had nothing but white space so far.
    is_line_blank: bool,
}

impl<R: BufRead> Objects<R> {
    pub fn new(input: R) -> Objects<R> {
        let place = Place { line: 1, element: None };
        Objects { input, text: Vec::new(), shape: Shape::Unknown, place, blank_lines: 0, is_line_blank: true }
    }

    /// Returns the place of the last object; after an error, the place where the text is wrong.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Returns the number of blank lines between objects.
    pub fn blank_lines(&self) -> u64 {
        self.blank_lines
    }

    /// Returns the next object, or `None` at the end of the text.
    pub fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        // The last object may have been broken into lines.
        self.place.line += line_breaks(&self.text);
        self.text.clear();
        loop {
            let Some(byte) = self.next_byte()? else { return self.end() };
            self.shape = match (self.shape, byte) {
                (Shape::Unknown | Shape::Objects, b'{') => {
                    self.shape = Shape::Objects;
                    return self.object().map(Some);
                }
                (Shape::ArrayBegun | Shape::CommaPassed, b'{') => {
                    self.shape = Shape::ElementEnded;
                    self.place.element = Some(self.place.element.unwrap_or(0) + 1);
                    return self.object().map(Some);
                }
                (Shape::Unknown, b'[') => Shape::ArrayBegun,
                (Shape::ElementEnded, b',') => Shape::CommaPassed,
                (Shape::ArrayBegun | Shape::ElementEnded, b']') => Shape::ArrayEnded,
                (Shape::ElementEnded, _) => return Err(refused("a comma or the end of the array has to come here")),
                (Shape::ArrayEnded, _) => return Err(refused("something comes behind the end of the array")),
                (_, b'[') => return Err(refused("an array is no event, which is a JSON object")),
                _ => return Err(refused("an event is a JSON object, and here begins something else")),
            };
            self.input.consume(1);
        }
    }

    fn end(&self) -> Result<Option<&[u8]>, Error> {
        match self.shape {
            Shape::ArrayBegun | Shape::ElementEnded | Shape::CommaPassed => {
                Err(refused("the file is cut off: its array does not end"))
            }
            Shape::Unknown | Shape::Objects | Shape::ArrayEnded => Ok(None),
        }
    }

    /// Returns the next byte behind white space, and does not consume it.
    fn next_byte(&mut self) -> Result<Option<u8>, Error> {
        loop {
            let Some(byte) = self.input.fill_buf()?.first().copied() else { return Ok(None) };
            match byte {
                b'\n' => {
                    let is_between = matches!(self.shape, Shape::Unknown | Shape::Objects);
                    self.blank_lines += u64::from(self.is_line_blank && is_between);
                    (self.place.line, self.is_line_blank) = (self.place.line + 1, true);
                }
                b' ' | b'\t' | b'\r' => {}
                _ if byte == BYTE_ORDER_MARK[0] => {
                    let mut mark = [0; 3];
                    io::Read::read_exact(&mut self.input, &mut mark)?;
                    if mark != BYTE_ORDER_MARK {
                        return Err(refused("an event is a JSON object, and here begins something else"));
                    }
                    continue;
                }
                _ => {
                    self.is_line_blank = false;
                    return Ok(Some(byte));
                }
            }
            self.input.consume(1);
        }
    }

    fn object(&mut self) -> Result<&[u8], Error> {
        let mut scan = Scan::default();
        loop {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                return Err(refused("the file is cut off: the event that begins here does not end"));
            }
            let end = scan.end_in(bytes);
            let taken = end.unwrap_or(bytes.len());
            self.text.extend_from_slice(&bytes[..taken]);
            self.input.consume(taken);
            if scan.has_broken_text {
                return Err(refused("a text in the event that begins here is broken off by the end of its line"));
            }
            if self.text.len() > OBJECT_BYTES_MAX {
                let why = format!("the event that begins here has more than {OBJECT_BYTES_MAX} bytes, or does not end");
                return Err(Error::Refused(why));
            }
            if end.is_some() {
                return Ok(&self.text);
            }
        }
    }
}

fn refused(why: &str) -> Error {
    Error::Refused(why.to_owned())
}

fn line_breaks(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// The state of an object that was read in part.
#[derive(Default)]
struct Scan {
    depth: usize,
    is_in_text: bool,
    is_escaped: bool,
    has_broken_text: bool,
}

impl Scan {
    /// Returns the index behind the brace that closes the object, which begins with the first bytes that the scan is
    /// given. Only a parser says whether the object is valid JSON.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if std::mem::take(&mut self.is_escaped) {
                at += 1;
            } else if self.is_in_text {
                at += memchr::memchr3(b'"', b'\\', b'\n', &bytes[at..])? + 1;
                match bytes[at - 1] {
                    b'"' => self.is_in_text = false,
                    b'\\' => self.is_escaped = true,
                    _ => {
                        self.has_broken_text = true;
                        return Some(at);
                    }
                }
            } else {
                match bytes[at] {
                    b'"' => self.is_in_text = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => self.depth -= 1,
                    _ => {}
                }
                at += 1;
                if self.depth == 0 {
                    return Some(at);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    /// Returns the objects with their places, however little is read at a time, and the final error, if any, with its
    /// place.
    fn read(text: &str) -> (Vec<(String, String)>, Option<String>) {
        let outcomes = [1, 2, 3, 7, 4096].map(|capacity| {
            let mut objects = Objects::new(BufReader::with_capacity(capacity, text.as_bytes()));
            let mut found = Vec::new();
            loop {
                match objects.next().map(|text| text.map(|text| String::from_utf8(text.to_vec()).unwrap())) {
                    Ok(Some(text)) => found.push((objects.place().to_string(), text)),
                    Ok(None) => return (found, None),
                    Err(error) => return (found, Some(format!("{}: {error}", objects.place()))),
                }
            }
        });
        assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
        outcomes.into_iter().next().unwrap()
    }

    fn places(text: &str) -> Vec<String> {
        let (found, error) = read(text);
        assert_eq!(error, None, "{text}");
        found.into_iter().map(|(place, _)| place).collect()
    }

    fn wrong(text: &str) -> String {
        read(text).1.unwrap_or_else(|| panic!("nothing is wrong: {text}"))
    }

    #[test]
    fn objects_are_found_however_they_are_laid_out() {
        assert_eq!(places(""), [""; 0]);
        assert_eq!(places("\u{feff}{\"a\":\"}\"}\r\n\r\n{\"b\":[{}]}"), ["line 1", "line 3"]);
        assert_eq!(places("{\n \"a\": {\n }\n}\n{\n}{}"), ["line 1", "line 5", "line 6"]);
        assert_eq!(places(" [ ]\n"), [""; 0]);
        assert_eq!(places("[{\"a\":\"\\\"]\"},{}\n,\n{}]"), ["line 1, event 1", "line 1, event 2", "line 3, event 3"]);
        assert_eq!(read("{\"a\" : \"\u{feff}é\\\\\"}").0[0].1, "{\"a\" : \"\u{feff}é\\\\\"}");
    }

    #[test]
    fn blank_lines_between_objects_are_counted() {
        for (text, expected) in [("\n{}\n \t\r\n\n{}\n", 3), ("{\n\n}\n", 0), ("\n[\n\n{}\n\n]\n", 1), ("{}", 0)] {
            let mut objects = Objects::new(text.as_bytes());
            while objects.next().unwrap().is_some() {}
            assert_eq!(objects.blank_lines(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            ("{}\n[]", "line 2: an array is no event"),
            ("{}\n\n7", "line 3: an event is a JSON object"),
            ("[{},\n7]", "line 2, event 1: an event is a JSON object"),
            ("[null,\"id\"]", "line 1: an event is a JSON object"),
            ("[[]]", "line 1: an array is no event"),
            ("[{} {}]", "line 1, event 1: a comma"),
            ("[{},]", "line 1, event 1: an event is a JSON object"),
            ("[]\n{}", "line 2: something comes behind"),
            ("{},\n{}", "line 1: an event is a JSON object"),
            ("{}\n{\"a\":\n", "line 2: the file is cut off"),
            ("{}\n{\"a\":\"b", "line 2: the file is cut off"),
            ("[{}\n,{},", "line 2, event 2: the file is cut off: its array"),
            ("{}\n{\"a\":\"b\n{}", "line 2: a text in the event"),
            ("\u{f000}{}", "line 1: an event is a JSON object"),
        ] {
            let said = wrong(text);
            assert!(said.starts_with(expected), "{text:?}: {said}");
        }
    }

    #[test]
    fn an_object_has_an_end() {
        let endless = "{".to_owned() + &" ".repeat(OBJECT_BYTES_MAX);
        let mut objects = Objects::new(endless.as_bytes());
        assert!(objects.next().unwrap_err().to_string().contains("67108864"));
    }
}
