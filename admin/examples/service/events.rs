//! Where events come from.

use dead_letters::AppId;
use sea_orm::DatabaseConnection;
use uuid::{Uuid, uuid};

use crate::{
    Result,
    outbox::{self, event},
    triggers::{Trigger, random},
};

const APPS: [(Uuid, &str); 3] = [
    (uuid!("6f1c2a52-6c1e-4a57-9a3e-0f6d2f8b1a01"), "Shop Berlin"),
    (uuid!("b7d0c9e4-2f0b-4c55-8c70-3a1e5d9c2b02"), "Shop Lyon"),
    (uuid!("c2a86b17-9f3d-4e60-b1a4-7d5e0c8f3d03"), "Outlet"),
];

pub(crate) fn app_name(app_id: AppId) -> Option<String> {
    APPS.iter().find(|app| app.0 == app_id.into_inner()).map(|app| app.1.to_owned())
}

pub(crate) fn app_of(name: &str) -> Option<AppId> {
    APPS.iter().find(|app| app.1 == name).map(|app| app.0.into())
}

/// Puts one into the outbox.
pub(crate) async fn happen(db: &DatabaseConnection, triggers: &[Trigger]) -> Result<()> {
    let (app_id, _) = APPS[random(APPS.len())];
    let trigger = &triggers[random(triggers.len())];
    let payload = trigger.payload();
    let event = event::ActiveModel::new(Uuid::now_v7(), app_id, &trigger.source, &trigger.op, payload);
    Ok(outbox::put(db, vec![event]).await?)
}
