//! Rows as `COPY (FORMAT binary)` takes and gives them.

pub const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The flags, and the length of an empty extension.
const HEADER_REST: [u8; 8] = [0; 8];
const END: i16 = -1;
const NULL: i32 = -1;

/// Rows that are being written. Each begins with the number of its columns.
pub struct Rows(Vec<u8>);

impl Rows {
    pub fn new() -> Rows {
        Rows([SIGNATURE, &HEADER_REST].concat())
    }

    pub fn begin(&mut self, columns: i16) {
        self.0.extend_from_slice(&columns.to_be_bytes());
    }

    pub fn number(&mut self, number: i64) {
        self.column(&number.to_be_bytes());
    }

    pub fn text(&mut self, text: &str) {
        self.column(text.as_bytes());
    }

    pub fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.0.extend_from_slice(&NULL.to_be_bytes()),
        }
    }

    fn column(&mut self, bytes: &[u8]) {
        let length = i32::try_from(bytes.len()).expect("what was published is far smaller");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes the bytes that were written so far.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.begin(END);
        self.0
    }
}
