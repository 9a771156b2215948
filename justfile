# Every check is a recipe. `.ci/run` installs the tools and runs `just ci`.

set shell := ["bash", "-euo", "pipefail", "-c"]

built := env("CARGO_TARGET_DIR", justfile_directory() / "target") / "debug"

# Not by `cargo run`, whose variables would make a cargo inside build some dependencies anew.
with_postgres := built / "dead-letters-test-support"

[private]
default:
    @{{ just_executable() }} --list --unsorted

# before a commit: format, lints, unit tests, and every SQLite case but those with a browser
check: format lints
    cargo test --locked --workspace --lib
    cargo test --locked --workspace --test main -- ::sqlite:: --skip browser::

# all tests, or those of one backend: `just test postgres`, `just test postgres_sharded`
test backend="":
    cargo test --locked --workspace{{ if backend == "" { "" } else { " --test main -- ::" + backend } }}

# the pages in a browser
browser:
    cargo test --locked --workspace --test main -- browser::

# the repo against hand-written sqlx: `just bench quick` takes two minutes, `just bench quick insert` is one call
bench *figures:
    cargo bench -- {{ replace_regex(figures, '\b(quick|five-million|ten-million)\b', '--$1') }}

# Every program and example, with the features and dependencies that `cargo test --workspace` builds. A package that is
# built alone has fewer features, and with them builds sea-orm anew.
[private]
build:
    cargo build --locked --workspace --bins --examples

# The tests come last, so that cargo's own lines close the run.

# everything, as CI does: about half an hour on two cores
ci: format lints words guarantees documentation links features dependencies alerts build build-tests runs test

[private]
build-tests:
    cargo test --locked --workspace --no-run

# the api and the soak wait for most of their time
[parallel]
[private]
runs: programs api soak

[private]
programs: alone packages migrate entities dispatcher examples readme deploys

# format
format:
    cargo fmt --all --check

# lints
lints:
    cargo clippy --locked --workspace --all-targets -- -D warnings

# docs/style.md, where a machine can check it: `just words README.md docs` checks a part
words *paths:
    .ci/words {{ paths }}

# each promise of GUARANTEES.md names tests that exist
guarantees:
    .ci/guarantees

# documentation, as docs.rs builds it
documentation:
    #!/usr/bin/env bash
    set -euo pipefail
    # RUSTC_BOOTSTRAP makes rustdoc act as nightly. Set for cargo, it would rebuild the dependencies.
    nightly=$(mktemp -d)
    printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n' >"$nightly/rustdoc"
    chmod +x "$nightly/rustdoc"
    RUSTDOC="$nightly/rustdoc" RUSTDOCFLAGS="-D warnings --cfg docsrs" \
        cargo doc --locked --workspace --all-features --no-deps
    rm -r "$nightly"

# the pages' links lead to files and headings
links:
    .ci/links

# each library crate with its own features alone
features:
    cargo clippy --locked --package dead-letters -- -D warnings
    # The README's first command builds the dispatcher. The documentation builds the library with all features alone.
    cargo clippy --locked --package dead-letters --all-features --lib --example dispatcher -- -D warnings
    cargo clippy --locked --package dead-letters-migration --no-default-features -- -D warnings
    cargo clippy --locked --package dead-letters-admin -- -D warnings
    cargo clippy --locked --package dead-letters-cli --no-default-features --features postgres -- -D warnings

# the library beside a driver, and without the features of the other crates here
alone:
    cargo test --locked --package dead-letters-alone --features alone

# what the crates depend on
dependencies:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo deny --locked check bans licenses sources
    cargo deny --locked --manifest-path admin/Cargo.toml --config deny.toml check bans licenses sources
    # The tool is a program with drivers and TLS, whose duplicate dependencies we cannot remove: no check of bans.
    cargo deny --locked --manifest-path cli/Cargo.toml --config deny.toml check licenses sources
    tree() { cargo tree --locked --edges normal --prefix none --package "$@"; }
    library=$(tree dead-letters)
    steps=$(tree dead-letters-migration --no-default-features)
    if grep sea-orm-migration <<<"$library" || grep -E '^(clap|dotenvy) ' <<<"$steps"; then exit 1; fi

# the packages, and a service built on them
packages:
    .ci/service

# sea-orm-cli migrate: up, status, down, fresh
migrate: build
    #!/usr/bin/env bash
    set -euo pipefail
    migrate='for command in up status down up fresh status; do sea-orm-cli migrate $command -d migration; done'
    {{ with_postgres }} sh -euc "$migrate"
    sqlite=$(mktemp -d)
    DATABASE_URL="sqlite://$sqlite/migrate.sqlite?mode=rwc" sh -euc "$migrate"
    rm -r "$sqlite"

# the generated entities are what the generator writes
entities: build
    #!/usr/bin/env bash
    set -euo pipefail
    before=$(mktemp -d)
    cp --archive entity/src "$before"
    WITH_POSTGRES={{ with_postgres }} entity/regenerate
    diff --recursive "$before/src" entity/src
    # With their times, since cargo would build everything anew.
    cp --archive "$before/src" entity
    rm -r "$before"

# the main job, on SQLite and on PostgreSQL
dispatcher: build
    #!/usr/bin/env bash
    set -euo pipefail
    sqlite=$(mktemp -d)
    DATABASE_URL="sqlite://$sqlite/dispatcher.sqlite?mode=rwc" {{ built }}/examples/dispatcher
    {{ with_postgres }} {{ built }}/examples/dispatcher
    rm -r "$sqlite"

# the examples that need no database of their own
examples: build
    #!/usr/bin/env bash
    set -euo pipefail
    for source in examples/*.rs admin/examples/*.rs; do
        example=$(basename "$source" .rs)
        # The recipe above runs this one on both databases.
        if [ "$example" != dispatcher ]; then
            echo "$source"
            {{ built }}/examples/"$example"
        fi
    done
    echo cli/examples/own.rs
    {{ built }}/examples/own --database-url sqlite::memory: migrate up

# the README's programs, with the README's dependencies
readme:
    .ci/readme

# six deploys at once, on an empty and on a current database, with sea-orm-cli and with the tool
deploys: build
    #!/usr/bin/env bash
    set -euo pipefail
    # tests/faults/migrate.rs adds a service's steps, and tests pending ones.
    deploys='
        six() {
            pids=()
            for _ in 1 2 3 4 5 6; do "$@" & pids+=($!); done
            for pid in "${pids[@]}"; do wait "$pid"; done
        }
        for deploy in "sea-orm-cli migrate up -d migration" "$0 migrate up"; do
            six $deploy
            six $deploy
            status=$(sea-orm-cli migrate status -d migration 2>&1)
            echo "$status"
            case $status in *Pending*) exit 1 ;; esac
            sea-orm-cli migrate reset -d migration
        done
    '
    {{ with_postgres }} bash -euc "$deploys" {{ built }}/dead-letters
    sqlite=$(mktemp -d)
    DATABASE_URL="sqlite://$sqlite/deploys.sqlite?mode=rwc" bash -euc "$deploys" {{ built }}/dead-letters
    rm -r "$sqlite"

# the admin's openapi.json and its answers
api:
    admin/tests/schemathesis/run

# the alert rules in deploy/prometheus, by promtool
alerts:
    promtool check rules deploy/prometheus/dead-letters.rules.yml
    promtool test rules deploy/prometheus/dead-letters.test.yml

# a minute of soak on both backends at once
soak: build
    #!/usr/bin/env bash
    set -euo pipefail
    {{ built }}/dead-letters-soak --seconds 60 --backend sqlite &
    {{ built }}/dead-letters-soak --seconds 60 --backend postgres
    wait $!
