//! Style sheet, script and icon, built into the binary. Browsers cache them for a year under names that change with
//! the content.

use std::{fmt::Write, sync::LazyLock};

use axum::{
    Router,
    extract::Path,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{State, problem};

pub(crate) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("style", "css", "text/css; charset=utf-8", include_str!("../assets/style.css"))
});
pub(crate) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("script", "js", "text/javascript; charset=utf-8", include_str!("../assets/script.js"))
});
pub(crate) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", "image/svg+xml", include_str!("../assets/icon.svg")));

pub(crate) struct Asset {
    name: String,
    content_type: &'static str,
    content: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let mut name = format!("{stem}.");
        for byte in &Sha256::digest(content)[..8] {
            // Writing to a string never fails.
            let _ = write!(name, "{byte:02x}");
        }
        Self { name: format!("{name}.{extension}"), content_type, content }
    }

    /// Returns the file name, which contains a part of the content's digest.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

pub(crate) fn router() -> Router<State> {
    Router::new().route("/assets/{dead_letters_asset}", get(asset))
}

#[derive(Deserialize)]
struct Name {
    dead_letters_asset: String,
}

async fn asset(Path(Name { dead_letters_asset }): Path<Name>) -> Response {
    let assets = [&STYLE, &SCRIPT, &ICON];
    let Some(asset) = assets.into_iter().find(|asset| asset.name == dead_letters_asset) else {
        return problem::not_found().await.into_response();
    };
    let headers =
        [(CONTENT_TYPE, asset.content_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers, asset.content).into_response()
}
