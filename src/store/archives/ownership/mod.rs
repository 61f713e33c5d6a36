//! The bucket's owner. A copy of the owner's database has the same deployment id and catalog, and must not write to the
//! bucket.
//!
//! The bucket's marker bears the claim of its owner: the identity that tells the database from its copies, and a token
//! that the database recorded before. A database compares the claim in the marker with itself:
//!
//! | the claim | the database | so it |
//! |---|---|---|
//! | is its own, and Postgres has not been started since | owns the bucket | writes |
//! | is its own, and Postgres was started since | was restarted, promoted, or copied with its folder | challenges |
//! | is its own, of another cluster or oid | is a copy, or was moved | writes nothing |
//! | is unknown to it | lost the bucket to an adoption, or is older than the claim | writes nothing |
//!
//! A challenger writes its claim beside the owner's, and takes the owner's place after [`Settings::takeover_wait`]. A
//! living owner looks at the marker more often than that, and answers with a new claim, which the challenger does not
//! know. So if a physical copy of a running database is started, the original goes on. [`Store::adopt`] asks nobody.
//!
//! If the process dies after it has recorded its claim, nothing has happened. If it dies after it has challenged the
//! owner, the next process of this database continues the challenge.

mod owner;

use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::bucket::{Abilities, Bucket, Claim, Marked, Marker, archive_in_key};
use crate::database;
use crate::database::catalog::claims::{self, Identity};
use crate::database::catalog::recovery;
use crate::database::log::rows;
use crate::store::{ATTEMPTS, Error, GaveWay, Store};

pub use owner::Owner;

use owner::judge;

/// The ownership as this process knows it.
#[derive(Default)]
pub struct Ownership {
    /// Held while a task looks at the marker and writes it, so that one does so at a time.
    turn: tokio::sync::Mutex<()>,
    /// The reason why this process writes nothing to the bucket; `None` if it may write.
    fenced: Mutex<Option<String>>,
    probed: OnceCell<()>,
}

/// The role in which a database asks for the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// The database asks as the bucket's owner, or for a bucket that nobody owns.
    Owner,
    /// The database is a recovered one, which takes the bucket over unless the owner lives.
    Successor,
}

/// The outcome of a look at the marker.
struct Look {
    owner: Owner,
    identity: Identity,
    marked: Option<Marked>,
    looked_at: Instant,
}

impl Look {
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        let marker = self.marked.iter().map(|marked| &marked.marker);
        marker.flat_map(|Marker { owner, challenger, .. }| owner.iter().chain(challenger))
    }

    fn marker(&self) -> Option<&Marker> {
        self.marked.as_ref().map(|marked| &marked.marker)
    }

    fn token(&self) -> Option<Uuid> {
        Some(self.marker()?.owner.as_ref()?.token)
    }

    fn etag(&self) -> Option<&str> {
        self.marked.as_ref().map(|marked| marked.etag.as_str())
    }
}

impl Store {
    pub async fn bucket_owner(&self) -> Result<Owner, Error> {
        Ok(self.look().await?.owner)
    }

    /// Marks a bucket that nobody owns as this database's, and returns its owner: another database may be faster.
    pub async fn claim_bucket(&self) -> Result<Owner, Error> {
        let _turn = self.ownership.turn.lock().await;
        let look = self.look().await?;
        match look.owner {
            Owner::Nobody if self.take_bucket(&look).await?.is_some() => Ok(Owner::Ours),
            Owner::Nobody => self.bucket_owner().await,
            owner => Ok(owner),
        }
    }

    /// Takes the bucket over from any owner of this deployment, and returns the epoch of the claim. The old owner
    /// writes nothing more once it has looked at the marker.
    pub async fn adopt(&self) -> Result<i64, Error> {
        self.bucket()?.refuse_if_read_only()?;
        let _turn = self.ownership.turn.lock().await;
        for _ in 0..ATTEMPTS {
            let look = self.look().await?;
            if let Owner::Another { .. } = look.owner {
                return Err(Error::Refused(self.why_fenced(look.owner)?));
            }
            if let Some(epoch) = self.take_bucket(&look).await? {
                self.abort_all_uploads().await;
                return Ok(epoch);
            }
        }
        Err(GaveWay::BucketClaimed.into())
    }

    /// Proves that this process may write to the bucket. The proof costs a request if the last one is too old. If
    /// Postgres was started anew, the call challenges the owner and waits for an answer.
    pub(in crate::store) async fn own(&self) -> Result<(), Error> {
        let bucket = self.bucket()?;
        bucket.refuse_if_read_only()?;
        if bucket.is_owned_still() {
            return Ok(());
        }
        let _turn = self.ownership.turn.lock().await;
        if bucket.is_owned_still() {
            return Ok(());
        }
        self.resolve(Asking::Owner, self.look().await?).await
    }

    /// Takes the bucket over for an empty database, unless the owner lives: the database becomes the deployment's
    /// that the bucket is of. A database that is not empty has to own the bucket. A bucket that is only read stays
    /// whose it is.
    pub(in crate::store) async fn succeed(&self) -> Result<(), Error> {
        let _turn = self.ownership.turn.lock().await;
        let mut look = self.look().await?;
        if let Owner::Another { deployment_id } = look.owner {
            let mut transaction = self.database.begin_job().await?;
            if !recovery::adopt_deployment(&mut transaction, deployment_id).await? {
                return Err(Error::Refused(format!(
                    "the bucket is of deployment {deployment_id}, and this database is another one's that is not empty"
                )));
            }
            database::commit(transaction).await?;
            look = self.judged(look.marked, look.looked_at).await?;
        }
        if self.is_read_only() {
            return Ok(());
        }
        // A database with events may be a copy of the owner's: an operator says which of the two goes on.
        if let Owner::Copied { .. } = look.owner
            && rows::has_any(&mut *self.database.view_for_job().await?).await?
        {
            return Err(Error::Refused(self.why_fenced(look.owner)?));
        }
        self.resolve(Asking::Successor, look).await
    }

    /// Looks at the marker, even while nothing is written: an owner that does not look cannot answer a challenger.
    pub async fn watch_bucket(&self) -> Result<(), Error> {
        let turn = self.ownership.turn.lock().await;
        let outcome = async { self.resolve(Asking::Owner, self.look().await?).await }.await;
        drop(turn);
        match outcome {
            Ok(()) => self.probe_bucket().await,
            // Jobs that need the bucket report the error.
            Err(error) => tracing::debug!(%error, "the bucket is not this database's, or away"),
        }
        Ok(())
    }

    /// Returns the reason why this process writes nothing to the bucket; `None` if it may write.
    pub fn fenced(&self) -> Option<String> {
        self.fenced_because().clone()
    }

    /// Probes, once in a process, the abilities that not every S3 server has, and logs them.
    pub async fn probe_bucket(&self) {
        let probing = async {
            self.own().await?;
            Ok::<_, Error>(self.bucket()?.probe().await?)
        };
        let probed = async {
            match probing.await {
                Ok(Abilities { conditional_reads, conditional_writes, versions, range_copies }) => {
                    tracing::info!(
                        conditional_reads,
                        conditional_writes,
                        versions,
                        range_copies,
                        "the bucket was probed"
                    );
                }
                Err(error) => tracing::warn!(%error, "the bucket could not be probed"),
            }
        };
        self.ownership.probed.get_or_init(|| probed).await;
    }

    pub fn is_read_only(&self) -> bool {
        self.bucket.as_ref().is_some_and(|bucket| bucket.is_read_only())
    }

    async fn look(&self) -> Result<Look, Error> {
        let looked_at = Instant::now();
        self.judged(self.bucket()?.marker().await?, looked_at).await
    }

    async fn judged(&self, marked: Option<Marked>, looked_at: Instant) -> Result<Look, Error> {
        let mut transaction = self.database.begin_job().await?;
        let identity = claims::identity(&mut transaction).await?;
        let mut look = Look { owner: Owner::Nobody, identity, marked, looked_at };
        let mut known = Vec::new();
        for claim in look.claims() {
            if claims::is_known(&mut transaction, (claim.epoch, claim.token)).await? {
                known.push(claim.token);
            }
        }
        look.owner = judge(look.marker(), &look.identity, |claim| known.contains(&claim.token));
        Ok(look)
    }

    /// Makes the bucket this database's, or returns an error that names the owner.
    async fn resolve(&self, asking: Asking, mut look: Look) -> Result<(), Error> {
        let bucket = self.bucket()?;
        let is_patient = !self.settings.takeover_wait.is_zero();
        // The token of this database's challenge, and the time since when the marker is known to bear it.
        let mut challenge: Option<(Uuid, Instant)> = None;
        for _ in 0..ATTEMPTS {
            while let Owner::Challenging { token } = look.owner {
                let since =
                    challenge.filter(|(challenger, _)| *challenger == token).map_or_else(Instant::now, |(_, at)| at);
                challenge = Some((token, since));
                let rest = self.settings.takeover_wait.saturating_sub(since.elapsed());
                if rest.is_zero() {
                    break;
                }
                tokio::time::sleep(rest.min(bucket.look_interval())).await;
                look = self.look().await?;
            }
            let is_denied = challenge.is_some() || asking == Asking::Owner;
            let is_taken = match look.owner {
                Owner::Ours => return self.found_ours(look.token(), look.looked_at),
                Owner::Nobody if asking == Asking::Owner && !bucket.expects_owner() => {
                    return self.found_ours(None, look.looked_at);
                }
                Owner::Another { .. } => return Err(self.found_fenced(look.owner)?),
                Owner::Copied { .. } if is_denied => return Err(self.found_fenced(look.owner)?),
                Owner::Challenging { .. } => self.settle_challenge(&look).await?,
                Owner::Restarted | Owner::Copied { .. } if is_patient => {
                    challenge = self.challenge_owner(&look).await?.map(|token| (token, Instant::now())).or(challenge);
                    false
                }
                Owner::Nobody | Owner::Challenged | Owner::Restarted | Owner::Copied { .. } => {
                    self.take_bucket(&look).await?.is_some()
                }
            };
            if is_taken {
                return Ok(());
            }
            look = self.look().await?;
        }
        Err(GaveWay::BucketClaimed.into())
    }

    /// Writes this database's claim into the marker, and returns the claim's epoch. `None` if another process changed
    /// the marker first.
    async fn take_bucket(&self, look: &Look) -> Result<Option<i64>, Error> {
        let claim = self.new_claim(look).await?;
        let (token, epoch) = (claim.token, claim.epoch);
        if !self.mark_bucket(look, Some(claim), None).await? {
            return Ok(None);
        }
        tracing::info!(bucket = self.bucket()?.name(), epoch, "the bucket is this database's");
        self.found_ours(Some(token), look.looked_at)?;
        Ok(Some(epoch))
    }

    /// Challenges the owner, and returns the challenge's token. `None` if another process changed the marker first.
    async fn challenge_owner(&self, look: &Look) -> Result<Option<Uuid>, Error> {
        let claim = self.new_claim(look).await?;
        let token = claim.token;
        let owner = look.marker().and_then(|marker| marker.owner.clone());
        tracing::warn!(
            bucket = self.bucket()?.name(),
            wait_seconds = self.settings.takeover_wait.as_secs(),
            "Postgres is another one, or was started anew: nothing is written until the bucket's owner has had time to answer"
        );
        Ok(self.mark_bucket(look, owner, Some(claim)).await?.then_some(token))
    }

    /// Makes the challenger in the marker, which nobody has answered, the owner. False if another process changed the
    /// marker first.
    async fn settle_challenge(&self, look: &Look) -> Result<bool, Error> {
        let challenger = look.marker().and_then(|marker| marker.challenger.clone());
        let token = challenger.as_ref().map(|claim| claim.token);
        if !self.mark_bucket(look, challenger, None).await? {
            return Ok(false);
        }
        tracing::info!(bucket = self.bucket()?.name(), "nobody has answered: the bucket is this database's");
        self.found_ours(token, look.looked_at)?;
        Ok(true)
    }

    async fn mark_bucket(&self, look: &Look, owner: Option<Claim>, challenger: Option<Claim>) -> Result<bool, Error> {
        let marker = Marker { deployment_id: look.identity.deployment_id, owner, challenger };
        Ok(self.bucket()?.mark(&marker, look.etag()).await?)
    }

    /// Records a new claim. The database records each claim before the marker bears it: a claim in the marker that the
    /// database does not have is another database's.
    async fn new_claim(&self, look: &Look) -> Result<Claim, Error> {
        let epoch_min = look.claims().map(|claim| claim.epoch).max().unwrap_or_default();
        let token = Uuid::new_v4();
        for _ in 0..ATTEMPTS {
            let mut transaction = self.database.begin_job().await?;
            let epoch = claims::insert(&mut transaction, epoch_min, token).await?;
            database::commit(transaction).await?;
            let Identity { cluster, database, instance, .. } = look.identity;
            if let Some(epoch) = epoch {
                return Ok(Claim { epoch, token, cluster: cluster.map(|id| id.to_string()), database, instance });
            }
        }
        Err(GaveWay::BucketClaimed.into())
    }

    /// Aborts the unfinished uploads of archives, so that the old owner can complete none of them.
    async fn abort_all_uploads(&self) {
        let aborting = async {
            let (bucket, mut from) = (self.bucket()?, None);
            loop {
                let (uploads, next) = bucket.uploads_page("", from).await?;
                for upload in uploads.iter().filter(|upload| archive_in_key(&upload.key).is_some()) {
                    bucket.abort(upload).await?;
                }
                if next.is_none() {
                    return Ok::<_, Error>(());
                }
                from = next;
            }
        };
        if let Err(error) = aborting.await {
            tracing::warn!(%error, "unfinished uploads of the old owner may remain in the bucket");
        }
    }

    fn fenced_because(&self) -> MutexGuard<'_, Option<String>> {
        self.ownership.fenced.lock()
    }

    fn found_ours(&self, token: Option<Uuid>, looked_at: Instant) -> Result<(), Error> {
        self.bucket()?.expect_owner(token, looked_at);
        metrics::gauge!("coldstream_bucket_owned").set(1);
        if self.fenced_because().take().is_some() {
            tracing::warn!("the bucket is this database's again");
        }
        Ok(())
    }

    /// Records that the bucket is not this database's. The log says so once, and the metric for as long as it is so.
    fn found_fenced(&self, owner: Owner) -> Result<Error, Error> {
        let why = self.why_fenced(owner)?;
        metrics::gauge!("coldstream_bucket_owned").set(0);
        if self.fenced_because().replace(why.clone()).is_none() {
            tracing::error!("{why}");
        }
        Ok(Error::Refused(why))
    }

    /// Returns one line about the owner, which says what an operator can do.
    pub fn why_fenced(&self, owner: Owner) -> Result<String, Error> {
        let name = Bucket::name(self.bucket()?);
        Ok(match owner {
            Owner::Another { deployment_id } => format!(
                "S3_BUCKET {name} is of another deployment, {deployment_id}: set another bucket, or POSTGRES_CONNECTION to its \
                 database; if that one is lost, `coldstream recover` fills an empty one from the bucket"
            ),
            _ => format!(
                "S3_BUCKET {name} is owned by another database, of which this one is a copy: `coldstream adopt` takes it over \
                 and keeps the other one from writing; S3_READ_ONLY=true reads its archives and writes none"
            ),
        })
    }
}
