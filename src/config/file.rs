//! The file that `CONFIG_FILE` names.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::config::Error;
use crate::event::read_from_objects;
use crate::store;

/// The contents of `CONFIG_FILE`.
#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields, default)]
struct ConfigFile {
    delete_after_consumption: BTreeMap<String, PartialPersistence>,
    delete_after_parallel_consumption: BTreeMap<String, PartialPersistence>,
}

#[derive(Debug, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", deny_unknown_fields)]
struct PartialPersistence {
    required_consumption_groups: Vec<String>,
}

read_from_objects!(ConfigFile, PartialPersistence);

/// Returns the groups that have to handle an event before it is deleted, by topic. Events of these topics are never
/// archived.
pub(super) fn required_groups(path: Option<&Path>) -> Result<store::RequiredGroups, Error> {
    let Some(path) = path else { return Ok(store::RequiredGroups::default()) };
    let wrong = |why: &dyn std::fmt::Display| Error(format!("CONFIG_FILE {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let ConfigFile { delete_after_consumption, delete_after_parallel_consumption } = match text.trim() {
        "" => ConfigFile::default(),
        text => serde_norway::from_str(text).map_err(|error| wrong(&error))?,
    };
    let groups = |topics: BTreeMap<String, PartialPersistence>| {
        let checked = topics.into_iter().map(|(topic, PartialPersistence { required_consumption_groups })| {
            if required_consumption_groups.is_empty() {
                return Err(wrong(&format!(
                    "requiredConsumptionGroups of {topic:?} is empty: its events would go at once"
                )));
            }
            Ok((topic, required_consumption_groups))
        });
        checked.collect::<Result<BTreeMap<_, _>, _>>()
    };
    let (normal, parallel) = (groups(delete_after_consumption)?, groups(delete_after_parallel_consumption)?);
    Ok(store::RequiredGroups { normal, parallel })
}
