use anyhow::bail;

use crate::command::{report, wiring};
use crate::config::Config;
use crate::store::Owner;

/// Says what it is about to do, and does it once that is confirmed.
pub async fn run(config: &Config, is_sure: bool) -> anyhow::Result<()> {
    let store = wiring::connect_to_bucket(config).await?;
    let name = &config.bucket()?.bucket;
    let owner = store.bucket_owner().await?;
    let whose = match owner {
        Owner::Another { .. } => bail!(store.why_fenced(owner)?),
        Owner::Nobody => "is not marked as anybody's".to_owned(),
        Owner::Copied { epoch } => format!("is owned by another database, with epoch {epoch}"),
        Owner::Ours | Owner::Restarted | Owner::Challenging { .. } | Owner::Challenged => {
            "is owned by this database, or by a copy of it that has not written yet".to_owned()
        }
    };
    report::say!("the bucket {name} {whose}");
    report::say!("this database takes it over: any other one goes on reading, and writes nothing to it any more");
    if !is_sure && !is_confirmed().await? {
        bail!("nothing was changed: say yes, or `coldstream adopt --yes`");
    }
    report::say!("adopted with epoch {}", store.adopt().await?);
    Ok(())
}

async fn is_confirmed() -> anyhow::Result<bool> {
    report::say!("type yes to go on:");
    let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next().transpose()).await??;
    Ok(line.is_some_and(|line| line.trim() == "yes"))
}
