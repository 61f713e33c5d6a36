//! Rows on their way out, as `COPY (FORMAT binary)` gives them. An export copies or decodes nothing of a row before the
//! caller asks for its event.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use time::OffsetDateTime;

use super::copying::SIGNATURE;
use crate::database::{Connection, Error};
use crate::event::{BorrowedEvent, BorrowedMetadata, Instant, PositionRange};

/// The number of columns of an exported row: the position, and `columns!`.
const COLUMNS: usize = 12;

/// The old events of a range of positions that no hold keeps at this moment, in order of position, from one view: all
/// of them, or as many of the first ones as reach the wanted bytes. A connection whose export was not read to its end
/// cannot be used again.
pub struct RowExport<'c> {
    messages: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    /// The bytes that were received and not taken yet.
    rest: Bytes,
}

/// The start and the end of each column in a row; `None` where the column is NULL.
type Columns = [Option<(u32, u32)>; COLUMNS];

pub struct ExportedRow {
    bytes: Bytes,
    columns: Columns,
}

/// The beginning of some bytes: a whole row, the end of the export, or only a part.
enum Begun {
    Row(Columns, usize),
    End,
    Part,
}

pub async fn export(
    connection: &mut Connection,
    log_id: i64,
    (raised_at_max, now): (i64, OffsetDateTime),
    range: PositionRange,
    bytes_max: i64,
) -> Result<RowExport<'_>, Error> {
    // COPY takes no parameters, so the statement is formatted.
    let now_micros = now.unix_timestamp_nanos() / 1_000;
    let statement = format!(
        concat!(
            "COPY (SELECT position, ",
            columns!(),
            " FROM (
                 SELECT position, ",
            columns!(),
            ", sum(octet_length(payload) + coalesce(octet_length(gdpr), 0))
                       OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
                 FROM events
                 WHERE log_id = {log_id} AND position >= {start} AND position < {end}
                   AND raised_at <= {raised_at_max}
                   AND (held_until IS NULL OR held_until <= to_timestamp(0) + interval '1 microsecond' * {now_micros})
             ) AS piece
             WHERE bytes_before IS NULL OR bytes_before < {bytes_max}
             ORDER BY position) TO STDOUT (FORMAT binary)"
        ),
        log_id = log_id,
        start = range.start,
        end = range.end,
        raised_at_max = raised_at_max,
        now_micros = now_micros,
        bytes_max = bytes_max,
    );
    let mut export = RowExport { messages: connection.copy_out(&statement).await?, rest: Bytes::new() };
    export.skip_header().await?;
    Ok(export)
}

impl RowExport<'_> {
    pub async fn next(&mut self) -> Result<Option<ExportedRow>, Error> {
        loop {
            match begun(&self.rest)? {
                Begun::Row(columns, end) => return Ok(Some(ExportedRow { bytes: self.rest.split_to(end), columns })),
                Begun::End => return self.end().await.map(|()| None),
                Begun::Part => self.receive().await?,
            }
        }
    }

    /// Receives one more message. A message mostly is one row, but need not be.
    async fn receive(&mut self) -> Result<(), Error> {
        let message = self.messages.next().await.transpose()?;
        let message = message.ok_or_else(|| damaged("an export ends in the middle of a row"))?;
        self.rest = match self.rest.is_empty() {
            true => message,
            false => {
                let mut joined = BytesMut::with_capacity(self.rest.len() + message.len());
                joined.extend_from_slice(&self.rest);
                joined.extend_from_slice(&message);
                joined.freeze()
            }
        };
        Ok(())
    }

    async fn skip_header(&mut self) -> Result<(), Error> {
        const FLAGS: usize = 4;
        while self.rest.len() < SIGNATURE.len() + FLAGS + size_of::<u32>() {
            self.receive().await?;
        }
        if !self.rest.starts_with(SIGNATURE) {
            return Err(damaged("an export does not begin with the signature of COPY"));
        }
        self.rest.advance(SIGNATURE.len() + FLAGS);
        let extension = self.rest.get_u32() as usize;
        while self.rest.len() < extension {
            self.receive().await?;
        }
        self.rest.advance(extension);
        Ok(())
    }

    /// Reads the statement to its end, because it can still fail there.
    async fn end(&mut self) -> Result<(), Error> {
        match self.messages.next().await.transpose()? {
            None => Ok(()),
            Some(_) => Err(damaged("an export goes on after its end")),
        }
    }
}

impl ExportedRow {
    pub fn position(&self) -> Result<i64, Error> {
        self.number(0)
    }

    /// The bytes of the row, no fewer than the export counts for it.
    pub fn byte_len(&self) -> i64 {
        self.bytes.len() as i64
    }

    pub fn event(&self) -> Result<BorrowedEvent<'_>, Error> {
        Ok(BorrowedEvent {
            position: self.position()?,
            raised_at: Instant::from_unix_nanos(self.number(1)?),
            metadata: BorrowedMetadata {
                deployment_id: self.number(2)?,
                correlation_id: self.text(7)?.into(),
                causation_id: self.text(8)?.into(),
                user_id: self.text(9)?.into(),
            },
            id: self.text(3)?.into(),
            stream: self.text(4)?.into(),
            event_type: self.text(5)?.into(),
            reason: self.text(6)?.into(),
            payload: self.text(10)?,
            gdpr: self.columns[11].map(|_| self.text(11)).transpose()?.map(Cow::Borrowed),
        })
    }

    fn column(&self, column: usize) -> Result<&[u8], Error> {
        let (start, end) =
            self.columns[column].ok_or_else(|| damaged("a column of an event is NULL that must not be"))?;
        Ok(&self.bytes[start as usize..end as usize])
    }

    fn number(&self, column: usize) -> Result<i64, Error> {
        let bytes = self.column(column)?.try_into().map_err(|_| damaged("a number does not have eight bytes"))?;
        Ok(i64::from_be_bytes(bytes))
    }

    fn text(&self, column: usize) -> Result<&str, Error> {
        std::str::from_utf8(self.column(column)?).map_err(|error| damaged(&error.to_string()))
    }
}

/// Finds out what some bytes begin with. A row is the number of its columns, and for each column its length and its
/// bytes; the end is the number -1.
fn begun(bytes: &[u8]) -> Result<Begun, Error> {
    let Some((count, _)) = bytes.split_first_chunk() else { return Ok(Begun::Part) };
    match i16::from_be_bytes(*count) {
        -1 => return Ok(Begun::End),
        count if count as usize == COLUMNS => {}
        count => return Err(damaged(&format!("a row has {count} columns"))),
    }
    let (mut columns, mut at) = ([None; COLUMNS], size_of::<i16>());
    for column in &mut columns {
        let Some((length, _)) = bytes[at..].split_first_chunk() else { return Ok(Begun::Part) };
        at += size_of::<i32>();
        if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
            *column = Some((at as u32, (at + length) as u32));
            at += length;
        }
        if at > bytes.len() {
            return Ok(Begun::Part);
        }
    }
    Ok(Begun::Row(columns, at))
}

fn damaged(why: &str) -> Error {
    Error::Damaged(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_may_end_anywhere() {
        let mut copied = [SIGNATURE, &[0; 8]].concat();
        for position in [7i64, 8] {
            copied.extend_from_slice(&(COLUMNS as i16).to_be_bytes());
            for number in [position, -1, 0] {
                copied.extend_from_slice(&8i32.to_be_bytes());
                copied.extend_from_slice(&number.to_be_bytes());
            }
            for text in ["id", "", "type", "", "", "", "é", "{}"] {
                copied.extend_from_slice(&(text.len() as i32).to_be_bytes());
                copied.extend_from_slice(text.as_bytes());
            }
            copied.extend_from_slice(&(-1i32).to_be_bytes());
        }
        copied.extend_from_slice(&(-1i16).to_be_bytes());
        for length in 1..=copied.len() {
            let messages: Vec<_> = copied.chunks(length).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let mut export = RowExport { messages: futures::stream::iter(messages).boxed(), rest: Bytes::new() };
            export.skip_header().await.unwrap();
            for position in [7, 8] {
                let row = export.next().await.unwrap().unwrap();
                let event = row.event().unwrap();
                assert_eq!((event.position, event.raised_at.unix_nanos()), (position, -1));
                assert_eq!((&*event.id, &*event.metadata.user_id, event.payload), ("id", "é", "{}"));
                assert_eq!(event.gdpr, None);
            }
            assert!(export.next().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn what_breaks_off_is_no_end() {
        let mut export =
            RowExport { messages: futures::stream::iter([]).boxed(), rest: Bytes::from_static(&[0, 12, 0]) };
        assert!(matches!(export.next().await, Err(Error::Damaged(_))));
    }
}
