//! Members that lookup pages lead to.

use uuid::Uuid;

use crate::database::catalog::members::{self, MemberExtent};
use crate::database::{Transaction, lookups};
use crate::event::PositionRange;
use crate::store::{Error, Store};

impl Store {
    /// The members in a range that may hold events of a stream, each with the number of those events.
    pub(in crate::store) async fn members_of_stream(
        &self,
        view: &mut Transaction,
        log_id: i64,
        stream: &str,
        range: PositionRange,
    ) -> Result<Vec<MemberExtent>, Error> {
        let key = self.hash_key(view).await?;
        let counts = lookups::members_with_stream(view, log_id, key, stream).await?;
        let keys: Vec<(Uuid, i32)> = counts.keys().copied().collect();
        let mut members = members::by_key(view, log_id, &keys).await?;
        members.retain(|member| member.positions().overlaps(range));
        for member in &mut members {
            member.matching = counts.get(&(member.archive_id, member.member)).copied().unwrap_or_default();
        }
        Ok(members)
    }
}
