use dead_letters::{
    AppId, Attribution, DeadLetterFilter, DeadLetterId, DeadLetterState, DeadLetterStore, DeadLetterSummary,
    Resolution,
};
use uuid::Uuid;

use super::{
    change::{BATCH, Change, Left, PREVENTED, in_batches_of_ids, of_open, run},
    list::state,
    matching::{Matching, in_batches},
    select::Selected,
    tally::Tally,
};
use crate::{
    args::{Resolve, Verdict},
    error::Failure,
    output::Printer,
    program,
    settings::Settings,
    stop::Stop,
};

pub(crate) async fn resolve(
    store: &dyn DeadLetterStore,
    resolve: Resolve,
    settings: &Settings,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let Resolve { which, verdict, note, by } = resolve;
    let resolution = match verdict {
        Verdict::Ignored => Resolution::Ignored,
        Verdict::HandledByScript => Resolution::HandledByScript,
    };
    let run_id = Uuid::now_v7();
    let mut attribution = Attribution::default().run_id(run_id);
    (attribution.by, attribution.note) = (by, note);
    let change = Resolving { store, resolution, attribution, run_id };
    run(&change, store, which, settings, printer, stop).await
}

struct Resolving<'a> {
    store: &'a dyn DeadLetterStore,
    resolution: Resolution,
    attribution: Attribution,
    run_id: Uuid,
}

impl Change for Resolving<'_> {
    const DONE: &'static str = "resolved";

    fn words(&self) -> String {
        format!("resolved as {}", self.resolution)
    }

    fn run_id(&self) -> Option<Uuid> {
        Some(self.run_id)
    }

    fn hint(&self) -> Option<String> {
        Some(format!("undo with `{} reopen --run {}`", program::name(), self.run_id))
    }

    fn narrow(&self, filter: DeadLetterFilter) -> Result<DeadLetterFilter, Failure> {
        of_open(&filter)
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
        let filters = [DeadLetterFilter::default().state(DeadLetterState::Open)];
        let resolve = async |these: &DeadLetterFilter| {
            self.store.resolve_matching(app_id, these, self.resolution, &self.attribution, BATCH).await
        };
        let left = |letter: &DeadLetterSummary| {
            let by = letter.resolved_by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
            let why = format!("the letter is {}{by} and was not changed", state(letter));
            match letter.resolution == Some(self.resolution) {
                true => Left::AsAsked(why),
                false if letter.is_open() => Left::Unchanged(PREVENTED.to_owned()),
                false => Left::Unchanged(why),
            }
        };
        in_batches_of_ids(self.store, (app_id, ids), &filters, tally, stop, resolve, left).await
    }

    async fn matching(&self, found: &[Matching], tally: &mut Tally, stop: &Stop) -> Result<(), Failure> {
        let Self { store, resolution, attribution, .. } = self;
        in_batches(found, BATCH, tally, stop, async |found, limit| {
            store.resolve_matching(found.app_id, &found.filter, *resolution, attribution, limit).await
        })
        .await
    }
}
