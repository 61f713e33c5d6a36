use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Logs go to the standard error; what a command was asked for goes to the standard output.
pub fn start(level: &str, format: LogFormat) -> anyhow::Result<()> {
    // The embedded S3 server writes whole requests into its spans, and what it does not know is no error of ours.
    let filter = EnvFilter::try_new(format!("{level},s3s=off,s3s_fs=off,sqlx::postgres::notice=warn"))
        .with_context(|| format!("LOG_LEVEL {level:?} is none of error, warn, info, debug, trace"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
