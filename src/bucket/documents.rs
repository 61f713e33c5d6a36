//! The XML documents that requests and answers of S3 bear.

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bucket::Error;

/// Writes a document of elements without attributes; the name of its type is its root.
pub(super) fn document(content: &impl Serialize) -> String {
    quick_xml::se::to_string(content).expect("text and numbers can be written")
}

/// Parses a document whose root has to be this one: without that check, serde takes any document in which it knows
/// nothing, an error or somebody's web page, for an empty list.
pub(super) fn parse_xml<T: DeserializeOwned>(root: &str, what: &str, body: &[u8]) -> Result<T, Error> {
    let text = String::from_utf8_lossy(body);
    let foreign = |why: String| Error::Unavailable { what: format!("the answer for {what} is no {root}: {why}") };
    if !has_root(&text, root).map_err(|error| foreign(error.to_string()))? {
        return Err(foreign(error_code(&text).unwrap_or("something else has answered".into())));
    }
    quick_xml::de::from_str(&text).map_err(|error| foreign(error.to_string()))
}

/// Returns whether the first element of a document has this name.
pub(super) fn has_root(document: &str, name: &str) -> Result<bool, quick_xml::Error> {
    let mut reader = Reader::from_str(document);
    loop {
        match reader.read_event()? {
            Event::Start(start) | Event::Empty(start) => return Ok(start.local_name().as_ref() == name.as_bytes()),
            Event::Eof => return Ok(false),
            _ => {}
        }
    }
}

/// The code of an S3 error document; `None` if the answer is no such document.
pub(super) fn error_code(body: &str) -> Option<String> {
    element(body, "Code").filter(|code| !code.is_empty())
}

/// The text of the first element of this name in an S3 error document. A document that is malformed behind the element
/// is good enough, since the text is for an operator.
pub(super) fn element(body: &str, name: &str) -> Option<String> {
    let mut reader = Reader::from_str(body);
    reader.config_mut().allow_dangling_amp = true;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) if start.local_name().as_ref() == name.as_bytes() => {
                let text = reader.read_text(start.name()).ok()?;
                return Some(unescape(&text).map_or_else(|_| text.to_string(), |text| text.into_owned()));
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn an_error_document_gives_its_code_and_texts() {
        let whole = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                     <Code>SlowDown</Code><Message>less than &lt;5&gt; &amp; more</Message><Region/></Error>";
        for (body, name, expected) in [
            (whole, "Code", Some("SlowDown")),
            (whole, "Message", Some("less than <5> & more")),
            (whole, "Resource", None),
            ("  \n<s3:Error><s3:Code>InternalError</s3:Code></s3:Error>", "Code", Some("InternalError")),
            ("<ErrorResponse><Error><Code>A</Code></Error></ErrorResponse>", "Code", Some("A")),
            ("<Error><Code>A</Code><Message>cut o", "Code", Some("A")),
            ("<Error><Code>A</Code><Message>cut o", "Message", None),
            ("<Error><Message>a & b</Message></Error>", "Message", Some("a & b")),
            ("<html><body>Bad Gateway<br></body></html>", "Code", None),
            ("upstream connect error", "Code", None),
            ("", "Code", None),
        ] {
            assert_eq!(element(body, name).as_deref(), expected, "{name} of {body}");
        }
        assert_eq!(error_code(whole).as_deref(), Some("SlowDown"));
        assert_eq!(error_code("<Error><Code></Code></Error>"), None);
    }

    #[test]
    fn an_answer_with_another_root_is_refused_with_its_code() {
        #[derive(Debug, Deserialize)]
        struct Answer {
            #[serde(rename = "A")]
            _a: String,
        }
        let parsed = |body: &str| parse_xml::<Answer>("Result", "a test", body.as_bytes());
        assert!(parsed("<?xml version=\"1.0\"?> <Result><A>1</A></Result>").is_ok());
        for (body, why) in [
            ("<Error><Code>InternalError</Code></Error>", "InternalError"),
            ("<html></html>", "something else has answered"),
            ("", "something else has answered"),
            ("<Result></Result>", "missing field"),
        ] {
            let error = parsed(body).unwrap_err().to_string();
            assert!(error.contains("the answer for a test is no Result: ") && error.contains(why), "{body}: {error}");
        }
    }
}
