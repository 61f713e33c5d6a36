//! Values that are never shown, and may come from a file, as container platforms give secrets.

use std::collections::BTreeMap;

use crate::config::Error;

/// The variables whose values may be in files: `S3_SECRET_KEY_FILE` names a file that holds the value of
/// `S3_SECRET_KEY`, and so on.
pub(super) const SECRETS: [&str; 4] =
    ["POSTGRES_CONNECTION", "POSTGRES_DIRECT_CONNECTION", "S3_ACCESS_KEY", "S3_SECRET_KEY"];

pub(super) fn file_variable(secret: &str) -> String {
    format!("{secret}_FILE")
}

/// Adds the values that are in files to the variables that were set.
pub(super) fn read_files(variables: &mut BTreeMap<String, String>) -> Result<(), Error> {
    for secret in SECRETS {
        let name = file_variable(secret);
        let Some(path) = variables.remove(&name) else { continue };
        if variables.contains_key(secret) {
            return Err(Error(format!("{secret} and {name} are both set, one is needed")));
        }
        let text = std::fs::read_to_string(&path).map_err(|error| Error(format!("{name} {path}: {error}")))?;
        let value = super::one_line(&format!("the text of {name} {path}"), &text)?;
        if value.is_empty() {
            return Err(Error(format!("{name} {path}: the file is empty")));
        }
        variables.insert(secret.to_owned(), value);
    }
    Ok(())
}
