//! Letters from before the service started.

use chrono::{DateTime, TimeDelta, Utc};
use dead_letters::{
    AppId, DeadLetterFilter, DeadLetterRepo, DeadLetterTransfer, NewDeadLetter, PageRequest,
    SeaOrmDeadLetterRepo, StoredLetter, entity::dead_letters as table, testing,
};
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::{
    Result,
    dispatcher::{ATTEMPTS, metadata},
    events::app_of,
    triggers::{Past, Trigger, random},
};

/// Fills an empty store.
pub(crate) async fn fill(repo: &SeaOrmDeadLetterRepo, triggers: &[Trigger]) -> Result<()> {
    if table::Entity::find().one(repo.pool()).await?.is_some() {
        return Ok(());
    }
    let scratch = testing::store().await?;
    for trigger in triggers {
        for past in &trigger.past {
            let app_id = app_of(&past.app).ok_or("there is no such app")?;
            let mut letters = Vec::new();
            for _ in 0..past.letters {
                letters.push(past.of(exported(&scratch, app_id, trigger).await?));
            }
            repo.import(&letters).await?;
        }
    }
    Ok(())
}

/// Returns a letter of now in the form of an export: inserted into the scratch database and exported from it.
async fn exported(scratch: &SeaOrmDeadLetterRepo, app_id: AppId, trigger: &Trigger) -> Result<StoredLetter> {
    let payload = serde_json::from_str(&trigger.payload())?;
    let (source, op, error) = (&trigger.source, &trigger.op, trigger.error());
    let event = Uuid::now_v7();
    let letter = NewDeadLetter {
        metadata: metadata(event),
        trigger_id: Some(trigger.id.into()),
        script_id: Some(trigger.script_id.into()),
        attempt_count: ATTEMPTS,
        ..NewDeadLetter::new(app_id, event, source, op, payload, error)
    };
    let ids = Some(vec![scratch.insert(letter).await?]);
    let filter = {
        let mut filter = DeadLetterFilter::default();
        filter.ids = ids;
        filter
    };
    let page = scratch.export(app_id, &filter, &PageRequest::default()).await?;
    page.items.into_iter().next().ok_or_else(|| "the letter is gone".into())
}

impl Past {
    fn of(&self, letter: StoredLetter) -> StoredLetter {
        let created_at = self.time();
        StoredLetter {
            original_event_id: self.event.unwrap_or(letter.original_event_id),
            first_attempt_at: created_at - TimeDelta::minutes(31),
            last_attempt_at: created_at,
            created_at,
            resolved_at: self.resolution.map(|_| created_at + TimeDelta::minutes(20)),
            resolution: self.resolution.map(|resolution| resolution.to_string()),
            resolved_by: self.by.clone(),
            ..letter
        }
    }

    fn time(&self) -> DateTime<Utc> {
        let [from, until] = self.hours_ago.map(TimeDelta::hours);
        let span = (from - until).num_seconds() as usize;
        Utc::now() - until - TimeDelta::seconds(random(span) as i64)
    }
}
