//! Pages of a listing, and the cursors between them.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    AppId, DeadLetterFilter, DeadLetterId, DeadLetterRepoError, DeadLetterSummary, setters::setters,
    time::is_held, words::words,
};

/// How many rows a page may have.
pub(crate) const PAGE_SIZES: RangeInclusive<u32> = 1..=500;

/// Which page of a listing to return. The default is the first page, with 50 letters.
///
/// Every field may be missing when it is deserialized. An unknown field is an error.
///
/// # Examples
///
/// ```
/// use dead_letters::PageRequest;
///
/// let request: PageRequest = serde_json::from_str(r#"{ "size": 20, "scan_limit": 10000 }"#)?;
/// assert_eq!(request, PageRequest::default().size(20).scan_limit(10_000));
/// assert!(serde_json::from_str::<PageRequest>(r#"{ "offset": 20 }"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PageRequest {
    /// The order of the letters.
    pub sort: ListSort,
    /// How many letters a page has at most: 1 to 500, or 1 to 1,000 for an export.
    pub size: u32,
    /// Where the page begins: the [`Page::next`] of the page before. `None` is the first page.
    pub after: Option<Cursor>,
    /// How many letters the call may examine, at least 1. It examines the first letters of the app and the filter's state
    /// in the order of [`sort`](field@Self::sort), within the filter's times and after the cursor. If the filter's
    /// state is closed, the order is that of `resolved_at`, and only `resolved_from` and `resolved_before` narrow
    /// what is examined.
    ///
    /// `None` means 10,000 letters for the order [`MostAttempts`](ListSort::MostAttempts) and for a
    /// [search](crate::DeadLetterRead::search_payloads). Otherwise it is no limit: if few letters match, a page then reads
    /// all letters. If the filter has ids or a run, only a search has a limit.
    pub scan_limit: Option<u32>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { sort: ListSort::default(), size: 50, after: None, scan_limit: None }
    }
}

setters! { PageRequest { plain sort: ListSort, plain size: u32, some after: Cursor, some scan_limit: u32 } }

/// The order of a page's letters. It prints, parses and serializes as `newest`, `oldest` or `most_attempts`.
///
/// # Examples
///
/// ```
/// use dead_letters::{DeadLetterFilter, DeadLetterRead, ListSort, PageRequest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// let oldest = PageRequest::default().sort(ListSort::Oldest).size(1);
/// let page = repo.list(app, &DeadLetterFilter::default(), &oldest).await?;
/// # assert!(page.items.is_empty());
/// assert_eq!("most_attempts".parse::<ListSort>()?, ListSort::MostAttempts);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ListSort {
    /// The newest letter first, by `created_at`, or by `resolved_at` if the filter's state is closed.
    #[default]
    Newest,
    /// The oldest letter first, by the same time.
    Oldest,
    /// The letter with the most attempts first, among the newest letters that the call examines: the
    /// [scan limit](PageRequest::scan_limit), or 10,000 letters without one. There is one page, so a cursor is an error
    /// and [`Page::next`] is `None`. Only a [list](crate::DeadLetterRead::list) has this order.
    MostAttempts,
}

impl ListSort {
    pub(crate) const PROBLEM: &'static str = "must be newest, oldest or most_attempts";
}

words! {
    ListSort { Newest = "newest", Oldest = "oldest", MostAttempts = "most_attempts" }
    /// Returns the text that the order serializes as.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::ListSort;
    ///
    /// assert_eq!(ListSort::MostAttempts.as_str(), "most_attempts");
    /// ```
    as_str,
    or |text| DeadLetterRepoError::InvalidQuery { field: "sort".to_owned(), problem: ListSort::PROBLEM }
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page<T> {
    /// The letters.
    pub items: Vec<T>,
    /// The cursor of the next page. `None` if this is the last page.
    pub next: Option<Cursor>,
    /// Where the scan limit stopped the call before the page was full: the `created_at` of the last examined letter,
    /// or its `resolved_at` if the filter's state is closed. More letters may follow, and `next` begins there. A list
    /// sorted by attempts has it whenever the limit left letters out.
    pub scanned_back_to: Option<DateTime<Utc>>,
}

impl<T> Page<T> {
    /// Returns the last page of a listing, with these letters.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{DeadLetterSummary, Page};
    ///
    /// // The response of a service's own store, which has no letters.
    /// let page: Page<DeadLetterSummary> = Page::last(Vec::new());
    /// assert!(page.items.is_empty() && page.next.is_none());
    /// ```
    pub fn last(items: Vec<T>) -> Self {
        Self { items, next: None, scanned_back_to: None }
    }
}

/// A position in one listing, for keyset pagination. It prints, parses and serializes as 44 characters that need no
/// encoding in a URL.
///
/// A checksum binds the cursor to its app, filter and order. The cursor is not signed: a forged one only reaches another
/// position of the same listing.
///
/// # Examples
///
/// ```
/// use dead_letters::{Cursor, DeadLetterFilter, DeadLetterRead, PageRequest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let repo = dead_letters::testing::store().await?;
/// # let app = dead_letters::AppId::from(uuid::Uuid::new_v4());
/// # let letters = vec![dead_letters::testing::letter(app), dead_letters::testing::letter(app)];
/// # dead_letters::DeadLetterRepo::insert_many(&repo, letters).await?;
/// let page = repo.list(app, &DeadLetterFilter::default(), &PageRequest::default().size(1)).await?;
/// let cursor = page.next.ok_or("there is one page only")?;
/// let link = format!("/letters?after={cursor}");
/// assert_eq!(link["/letters?after=".len()..].parse::<Cursor>()?, cursor);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    created_at: DateTime<Utc>,
    id: DeadLetterId,
    checksum: [u8; 8],
}

impl Cursor {
    /// The version of the cursor's format, which is its first byte.
    const VERSION: u8 = 1;

    /// Returns the cursor after this letter in a listing that merges several apps in this order.
    ///
    /// The caller lists each app and merges the pages. For the next page it makes the cursor of each app's listing with
    /// [`in_app`](Self::in_app).
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{Cursor, DeadLetterFilter, DeadLetterRead, ListSort, PageRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let repo = dead_letters::testing::store().await?;
    /// # let (app, other) = (uuid::Uuid::new_v4().into(), uuid::Uuid::new_v4().into());
    /// # for app in [app, other] {
    /// #     dead_letters::DeadLetterRepo::insert(&repo, dead_letters::testing::letter(app)).await?;
    /// # }
    /// let open = DeadLetterFilter::default();
    /// let newest = repo.list(app, &open, &PageRequest::default().size(1)).await?.items.remove(0);
    /// let behind = Cursor::of_all_apps(&newest, &open, ListSort::Newest);
    /// // The letters of both apps that are older than the newest one of the first app.
    /// for app_id in [app, other] {
    ///     let page = PageRequest::default().after(behind.in_app(app_id, &open, ListSort::Newest)?);
    ///     let older = repo.list(app_id, &open, &page).await?.items;
    ///     # assert!(older.iter().all(|letter| letter.created_at <= newest.created_at));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn of_all_apps(letter: &DeadLetterSummary, filter: &DeadLetterFilter, sort: ListSort) -> Self {
        Self::behind(letter.listed_at(filter), letter.id, Self::all_apps(), filter, sort)
    }

    /// Returns the cursor at the same position in this app's listing.
    ///
    /// # Errors
    ///
    /// [`InvalidCursor`](DeadLetterRepoError::InvalidCursor) if the cursor is not one
    /// [of all apps](Self::of_all_apps), or belongs to another filter or order.
    ///
    /// # Examples
    ///
    /// ```
    /// use dead_letters::{AppId, Cursor, DeadLetterFilter, ListSort, testing};
    /// use uuid::Uuid;
    ///
    /// let (app, open) = (AppId::from(Uuid::new_v4()), DeadLetterFilter::default());
    /// let of_all = Cursor::of_all_apps(&testing::summary(app), &open, ListSort::Newest);
    /// let of_app = of_all.in_app(app, &open, ListSort::Newest)?;
    /// assert_ne!(of_app, of_all);
    /// // The cursor belongs to one order.
    /// assert!(of_all.in_app(app, &open, ListSort::Oldest).is_err());
    /// # Ok::<(), dead_letters::DeadLetterRepoError>(())
    /// ```
    pub fn in_app(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        sort: ListSort,
    ) -> Result<Self, DeadLetterRepoError> {
        let (time, id) = self.place(Self::all_apps(), filter, sort)?;
        Ok(Self::behind(time, id, app_id, filter, sort))
    }

    /// Returns the id that stands for all apps in a cursor's checksum.
    fn all_apps() -> AppId {
        Uuid::nil().into()
    }

    pub(crate) fn behind(
        created_at: DateTime<Utc>,
        id: DeadLetterId,
        app_id: AppId,
        filter: &DeadLetterFilter,
        sort: ListSort,
    ) -> Self {
        // A filter that names its default state and one that names no state select the same letters, so they have the
        // same cursors.
        let filter = filter.clone().state(filter.effective_state());
        // The digest is over the JSON of these types, whose fields have a fixed order. In a `Value` the order depends on
        // a feature of serde_json, which another crate may turn on. Every program must compute the same digest.
        let listing = (Self::VERSION, created_at.timestamp_micros(), id, app_id, filter, sort);
        // Serializing these types does not fail.
        let digest = Sha256::digest(serde_json::to_vec(&listing).unwrap_or_default());
        let checksum = digest.first_chunk().copied().unwrap_or_default();
        Self { created_at, id, checksum }
    }

    /// Returns the position, if the cursor belongs to the app's listing with this filter in this order.
    pub(crate) fn place(
        &self,
        app_id: AppId,
        filter: &DeadLetterFilter,
        sort: ListSort,
    ) -> Result<(DateTime<Utc>, DeadLetterId), DeadLetterRepoError> {
        if *self != Self::behind(self.created_at, self.id, app_id, filter, sort) {
            return Err(DeadLetterRepoError::InvalidCursor);
        }
        Ok((self.created_at, self.id))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [Self::VERSION; 33];
        bytes[1..9].copy_from_slice(&self.created_at.timestamp_micros().to_be_bytes());
        bytes[9..25].copy_from_slice(self.id.into_inner().as_bytes());
        bytes[25..].copy_from_slice(&self.checksum);
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = DeadLetterRepoError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
            let ([Self::VERSION], rest) = bytes.split_first_chunk()? else { return None };
            let (micros, rest) = rest.split_first_chunk()?;
            let (id, checksum) = rest.split_first_chunk()?;
            let created_at = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros))?;
            Some(Self {
                created_at: Some(created_at).filter(|&at| is_held(at))?,
                id: Uuid::from_bytes(*id).into(),
                checksum: checksum.try_into().ok()?,
            })
        };
        parse().ok_or(DeadLetterRepoError::InvalidCursor)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_at_a_time_that_no_row_has_is_refused() {
        let cursor = |time: DateTime<Utc>| {
            let (app, id) = (Uuid::nil().into(), Uuid::nil().into());
            Cursor::behind(time, id, app, &DeadLetterFilter::default(), ListSort::Newest)
                .to_string()
                .parse::<Cursor>()
        };
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for held in ["0001-01-01T00:00:00Z", "2026-03-01T10:00:00.000001Z", "9999-12-31T23:59:59.999999Z"] {
            assert_eq!(cursor(time(held)).unwrap().created_at, time(held));
        }
        for extreme in [
            DateTime::<Utc>::MIN_UTC,
            time("0000-12-31T23:59:59.999999Z"),
            time("+10000-01-01T00:00:00Z"),
            DateTime::<Utc>::MAX_UTC,
        ] {
            assert!(matches!(cursor(extreme), Err(DeadLetterRepoError::InvalidCursor)), "{extreme}");
        }
    }
}
