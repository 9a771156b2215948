use dead_letters::{AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterStore};
use uuid::Uuid;

use super::{
    change::{BATCH, Change, Left, PREVENTED, in_batches_of_ids, run},
    matching::{Matching, in_batches},
    select::Selected,
    tally::Tally,
};
use crate::{args::Delete, error::Failure, output::Printer, settings::Settings, stop::Stop};

pub(crate) async fn delete(
    store: &dyn DeadLetterStore,
    delete: Delete,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Delete { which, note, by } = delete;
    let mut attribution = Attribution::default().run_id(Uuid::now_v7());
    (attribution.by, attribution.note) = (by, note);
    run(&Deleting { store, attribution }, store, which, settings, printer, stop).await
}

struct Deleting<'a> {
    store: &'a dyn DeadLetterStore,
    attribution: Attribution,
}

impl Change for Deleting<'_> {
    const DONE: &'static str = "deleted";
    const ASKS_ABOUT_IDS: bool = true;

    fn run_id(&self) -> Option<Uuid> {
        self.attribution.run_id
    }

    fn narrow(&self, filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
        let state = filter.effective_state();
        Ok(filter.state(state))
    }

    async fn check(&self, _: &Selected) -> Result<(), Failure> {
        Ok(())
    }

    async fn by_ids(
        &self,
        app_id: AppId,
        ids: &[DeadLetterId],
        tally: &mut Tally,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let filters = [DeadLetterFilter::default()];
        let delete = async |these: &DeadLetterFilter| {
            self.store.delete_matching(app_id, these, &self.attribution, BATCH).await
        };
        let left = |_: &_| Left::Unchanged(PREVENTED.to_owned());
        in_batches_of_ids(self.store, (app_id, ids), &filters, tally, stop, delete, left).await
    }

    async fn matching(&self, found: &[Matching], tally: &mut Tally, stop: &Stop) -> Result<(), Failure> {
        in_batches(found, BATCH, tally, stop, async |found, limit| {
            let filter = match found.filter.matches_resolved_only() {
                true => found.resolved_by_now(),
                false => found.filter.clone(),
            };
            self.store.delete_matching(found.app_id, &filter, &self.attribution, limit).await
        })
        .await
    }
}
