//! Rules of the source tree.

use std::{fs, path::Path};

#[test]
fn the_domain_does_not_know_sea_orm() {
    for file in [
        "announce.rs",
        "archive.rs",
        "background.rs",
        "count.rs",
        "filter.rs",
        "group.rs",
        "metrics.rs",
        "model.rs",
        "observed.rs",
        "page.rs",
        "query.rs",
        "read.rs",
        "rebuild.rs",
        "repo.rs",
        "resolve.rs",
        "retention.rs",
        "signature.rs",
        "signature/mask.rs",
        "signature/message.rs",
        "signature/words.rs",
        "summary.rs",
        "sweeper.rs",
        "sweeper/pace.rs",
        "sweeper/policy.rs",
        "time.rs",
        "timeline.rs",
        "transfer.rs",
        "watch.rs",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
        let source = fs::read_to_string(path).unwrap();
        let code = source.lines().filter(|line| !line.trim_start().starts_with("///"));
        assert!(!code.collect::<String>().contains("sea_orm"), "src/{file} names sea_orm");
    }
}
