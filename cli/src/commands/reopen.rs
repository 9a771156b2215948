use dead_letters::{
    AppId, Attribution, CappedCount, DeadLetterFilter, DeadLetterId, DeadLetterStore, DeadLetterSummary,
    ReopenRequest, Resolution,
};
use uuid::Uuid;

use super::{
    change::{BATCH, Change, Left, PREVENTED, in_batches_of_ids, run},
    matching::{Matching, in_batches},
    select::Selected,
    tally::Tally,
};
use crate::{args::Reopen, error::Failure, output::Printer, settings::Settings, stop::Stop};

/// Cap of the count of replayed letters.
const REPLAYED_CAP: u32 = 1_000;

pub(crate) async fn reopen(
    store: &dyn DeadLetterStore,
    reopen: Reopen,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Reopen { which, include_replayed, note, by } = reopen;
    let mut attribution = Attribution::default().run_id(Uuid::now_v7());
    (attribution.by, attribution.note) = (by, note);
    let change = Reopening { store, include_replayed, attribution };
    run(&change, store, which, settings, printer, stop).await
}

struct Reopening<'a> {
    store: &'a dyn DeadLetterStore,
    include_replayed: bool,
    attribution: Attribution,
}

impl Change for Reopening<'_> {
    const DONE: &'static str = "reopened";

    fn narrow(&self, filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
        filter.reopenable().ok_or_else(|| {
            let state = filter.state.map(|state| state.to_string()).unwrap_or_default();
            Failure::usage(format!("--state {state}: only closed letters can be reopened; use closed or any"))
        })
    }

    async fn check(&self, selected: &Selected) -> Result<(), Failure> {
        let filter = &selected.filter;
        let has_replayed = matches!(filter.resolution, None | Some(Resolution::Replayed));
        if has_replayed && !self.include_replayed {
            let replayed = filter.clone().resolution(Resolution::Replayed);
            let count = selected.count(self.store, &replayed, REPLAYED_CAP).await?.count;
            if count > 0 {
                let capped = count >= REPLAYED_CAP.into();
                let replayed = CappedCount { count: count.min(REPLAYED_CAP.into()), capped };
                let message =
                    format!("{replayed} of these letters were replayed; their events are back in the outbox");
                return Err(Failure::usage(message).hint(
                    "name another --resolution, or pass --include-replayed to reopen them nevertheless",
                ));
            }
        }
        Ok(())
    }

    async fn by_ids(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        tally: &mut Tally,
        stop: &Stop,
    ) -> Result<(), Failure> {
        // The call itself leaves replayed letters out: one may be replayed between a look at it and the call.
        let request = ReopenRequest::default().include_replayed(self.include_replayed);
        let any = DeadLetterFilter::default();
        let filters = [any.clone(), any.resolution(Resolution::HandlerFailed)];
        let reopen = async |these: &DeadLetterFilter| {
            self.store.reopen_matching(app_id, these, &self.attribution, &request).await
        };
        let left = |letter: &DeadLetterSummary| match letter.resolution {
            _ if letter.resolved_at.is_none() => Left::AsAsked("the letter is unresolved already".to_owned()),
            Some(Resolution::Replayed) => Left::Unchanged(
                "the letter was replayed; to reopen it nevertheless, pass --include-replayed".to_owned(),
            ),
            _ => Left::Unchanged(PREVENTED.to_owned()),
        };
        in_batches_of_ids(self.store, (app_id, ids), &filters, tally, stop, reopen, left).await
    }

    async fn matching(&self, found: &[Matching], tally: &mut Tally, stop: &Stop) -> Result<(), Failure> {
        let request = ReopenRequest::default().include_replayed(self.include_replayed);
        in_batches(found, BATCH, tally, stop, async |found, limit| {
            // The id of a run leaves out later changes by itself.
            let filter = match found.filter.run_id {
                Some(_) => found.filter.clone(),
                None => found.resolved_by_now(),
            };
            let request = request.limit(limit);
            self.store.reopen_matching(found.app_id, &filter, &self.attribution, &request).await
        })
        .await
    }
}
