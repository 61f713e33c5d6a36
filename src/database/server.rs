//! The requirements on a server and its database, checked before any table is touched.

use crate::database::{Connection, Error};

/// The first version that takes our SQL.
const VERSION_MIN: i32 = 14;
/// The encoding in which the text of an event stays as it is.
const ENCODING: &str = "UTF8";

pub(super) async fn check(connection: &mut Connection) -> Result<(), Error> {
    let (version_number, version, encoding): (i32, String, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
                current_setting('server_encoding')",
    )
    .fetch_one(connection)
    .await?;
    // Version 14.23 has the number 140023.
    if version_number / 10_000 < VERSION_MIN {
        return Err(Error::Unusable(format!(
            "the server is Postgres {version}: version {VERSION_MIN} or newer is needed"
        )));
    }
    if encoding != ENCODING {
        return Err(Error::Unusable(format!(
            "the database's encoding is {encoding}: {ENCODING} is needed \
             (CREATE DATABASE … ENCODING '{ENCODING}' TEMPLATE template0)"
        )));
    }
    Ok(())
}
