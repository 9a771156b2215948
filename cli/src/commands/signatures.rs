use std::collections::BTreeMap;

use dead_letters::{DeadLetterStore, RebuildRequest, Rebuilt, Regrouped};
use serde::Serialize;

use crate::{
    args::Rebuild,
    error::{Exit, Failure, ended},
    output::{Printer, id, message, number},
    progress::Progress,
    stop::Stop,
};

/// How many changes of groups are kept in memory and printed.
const GROUPS: usize = 10_000;

#[derive(Default, Serialize)]
struct Sum {
    examined: u64,
    stale: u64,
    updated: u64,
    regrouped: Vec<Regrouped>,
    #[serde(skip)]
    left_out: u64,
}

pub(crate) async fn rebuild(
    store: &dyn DeadLetterStore,
    rebuild: Rebuild,
    printer: &mut Printer,
    stop: &Stop,
) -> Result<(), Failure> {
    let mut request = RebuildRequest::default().dry_run(rebuild.dry_run);
    let (mut sum, mut regrouped, progress) = (Sum::default(), BTreeMap::new(), Progress::of(None));
    let ran = loop {
        if stop.is_asked() {
            break Err(Failure::silent(Exit::Partly));
        }
        let rebuilt = match store.rebuild_signatures(&request).await {
            Ok(rebuilt) => rebuilt,
            Err(error) if sum.updated == 0 => return Err(error.into()),
            Err(error) => break Err(Failure::from(error).after_a_part()),
        };
        request.after = rebuilt.next;
        sum.add(rebuilt, &mut regrouped);
        progress.is_at(sum.examined);
        if request.after.is_none() {
            break Ok(());
        }
    };
    drop(progress);
    sum.regrouped = regrouped.into_values().collect();
    let columns = [
        id("app"),
        id("from"),
        id("to"),
        number("letters"),
        message("signature before"),
        message("signature after"),
    ];
    let printed = printer.print(&sum, &sum.regrouped, columns, |group| {
        [
            group.app_id.into(),
            group.from.as_str().into(),
            group.to.as_str().into(),
            group.letters.into(),
            group.signature_before.as_str().into(),
            group.signature_after.as_str().into(),
        ]
    });
    sum.note(rebuild.dry_run, ran.is_err());
    ended(ran, printed)
}

impl Sum {
    fn add(&mut self, rebuilt: Rebuilt, regrouped: &mut BTreeMap<(String, String, String), Regrouped>) {
        self.examined += rebuilt.examined;
        self.stale += rebuilt.stale;
        self.updated += rebuilt.updated;
        for group in rebuilt.regrouped {
            let of = (group.app_id.to_string(), group.from.clone(), group.to.clone());
            if let Some(before) = regrouped.get_mut(&of) {
                before.letters += group.letters;
            } else if regrouped.len() < GROUPS {
                regrouped.insert(of, group);
            } else {
                self.left_out += 1;
            }
        }
    }

    fn note(&self, dry_run: bool, was_stopped: bool) {
        let Self { examined, stale, updated, left_out, .. } = self;
        if was_stopped {
            say!("note: the rebuild was stopped; run it again");
        }
        if *left_out > 0 {
            say!("note: only the first {GROUPS} changes of groups are shown");
        }
        match dry_run {
            true => {
                say!("note: {stale} of {examined} letters have an older signature, and nothing was changed")
            }
            false => say!("note: {updated} of {examined} letters have a new signature"),
        }
        if !dry_run && stale > updated {
            say!("note: {} letters were locked or changed; run it again", stale - updated);
        }
    }
}
