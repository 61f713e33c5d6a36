//! The owner of a bucket, which a database finds by comparing the bucket's marker with itself. Nothing is written.

use uuid::Uuid;

use crate::bucket::{Claim, Marker};
use crate::database::catalog::claims::Identity;

/// The bucket's owner, as one database judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Ours,
    /// The bucket has no marker, or its marker names this deployment and no owner.
    Nobody,
    Another {
        deployment_id: Uuid,
    },
    /// This database owned the bucket before its server was started anew. A copy of its data folder looks the same.
    Restarted,
    /// This database has challenged the owner.
    Challenging {
        token: Uuid,
    },
    /// This database owns the bucket, and another one challenges it.
    Challenged,
    /// Another database of this deployment owns the bucket, or is about to.
    Copied {
        epoch: i64,
    },
}

/// Decides who owns the bucket. `is_known` returns whether this database, or the one that it is a copy of, has made a
/// claim.
pub fn judge(marker: Option<&Marker>, us: &Identity, is_known: impl Fn(&Claim) -> bool) -> Owner {
    let Some(Marker { deployment_id, owner, challenger }) = marker else { return Owner::Nobody };
    if *deployment_id != us.deployment_id {
        return Owner::Another { deployment_id: *deployment_id };
    }
    let Some(owner) = owner else { return Owner::Nobody };
    let is_here = |claim: &Claim| is_known(claim) && is_of(claim, us);
    match challenger {
        Some(challenger) if is_here(challenger) && challenger.instance == us.instance => {
            Owner::Challenging { token: challenger.token }
        }
        _ if !is_here(owner) => Owner::Copied { epoch: owner.epoch },
        None if owner.instance == us.instance => Owner::Ours,
        None => Owner::Restarted,
        Some(_) if owner.instance == us.instance => Owner::Challenged,
        // No process of this database has answered yet, and the challenger is about to take the bucket over.
        Some(challenger) if !is_of(challenger, us) || !is_known(challenger) => {
            Owner::Copied { epoch: challenger.epoch }
        }
        Some(_) => Owner::Restarted,
    }
}

/// Returns whether a claim was made by this database in this cluster. A cluster that hides its identifier counts as the
/// same.
fn is_of(claim: &Claim, us: &Identity) -> bool {
    let is_another = |(theirs, ours): (&String, i64)| *theirs != ours.to_string();
    claim.database == us.database && !claim.cluster.as_ref().zip(us.cluster).is_some_and(is_another)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Identity =
        Identity { deployment_id: Uuid::from_u128(1), cluster: Some(7), database: 16_384, instance: 100 };

    fn claim(token: u128) -> Claim {
        Claim { epoch: 3, token: Uuid::from_u128(token), cluster: Some("7".into()), database: 16_384, instance: 100 }
    }

    /// Judges a marker. Claims whose tokens are below 10 are known.
    fn judged(owner: Option<Claim>, challenger: Option<Claim>) -> Owner {
        let marker = Marker { deployment_id: US.deployment_id, owner, challenger };
        judge(Some(&marker), &US, |claim| claim.token < Uuid::from_u128(10))
    }

    #[test]
    fn a_bucket_without_an_owner_is_nobodys() {
        assert_eq!(judge(None, &US, |_| true), Owner::Nobody);
        assert_eq!(judged(None, None), Owner::Nobody);
        let another = Marker { deployment_id: Uuid::from_u128(2), owner: Some(claim(1)), challenger: None };
        assert_eq!(judge(Some(&another), &US, |_| true), Owner::Another { deployment_id: Uuid::from_u128(2) });
    }

    #[test]
    fn a_database_is_told_from_its_copies() {
        let copied = Owner::Copied { epoch: 3 };
        let cases = [
            (claim(1), Owner::Ours),
            (claim(11), copied),
            (Claim { database: 5, ..claim(1) }, copied),
            (Claim { cluster: Some("8".into()), ..claim(1) }, copied),
            (Claim { cluster: None, ..claim(1) }, Owner::Ours),
            (Claim { cluster: None, database: 5, ..claim(1) }, copied),
            (Claim { instance: 99, ..claim(1) }, Owner::Restarted),
            (Claim { instance: 99, ..claim(11) }, copied),
        ];
        for (owner, expected) in cases {
            assert_eq!(judged(Some(owner.clone()), None), expected, "{owner:?}");
        }
        let hidden = Identity { cluster: None, ..US };
        let marker = Marker { deployment_id: US.deployment_id, owner: Some(claim(1)), challenger: None };
        assert_eq!(judge(Some(&marker), &hidden, |_| true), Owner::Ours);
    }

    #[test]
    fn an_owner_answers_a_challenger_and_nobody_else_does() {
        let (restarted, foreign) = (Claim { instance: 99, ..claim(1) }, Claim { instance: 98, ..claim(12) });
        let challenging = Owner::Challenging { token: Uuid::from_u128(2) };
        let cases = [
            // The owner itself, whose server has run on.
            (claim(1), foreign.clone(), Owner::Challenged),
            // A process beside the challenger's, of the same server.
            (restarted.clone(), claim(2), challenging),
            (claim(11), claim(2), challenging),
            // Two databases were started at once; or the challenger's server was started once more.
            (restarted.clone(), foreign.clone(), Owner::Copied { epoch: 3 }),
            (restarted, Claim { instance: 98, ..claim(2) }, Owner::Restarted),
            // A bystander.
            (claim(11), foreign, Owner::Copied { epoch: 3 }),
        ];
        for (owner, challenger, expected) in cases {
            assert_eq!(judged(Some(owner.clone()), Some(challenger.clone())), expected, "{owner:?} {challenger:?}");
        }
    }
}
