#!/usr/bin/env bash
# Everything that CI checks, on a machine with Rust, a C compiler, git, Python 3 and Node.
#
#   ./ci.sh           all of it
#   ./ci.sh rust      formatting, lints, docs, tests, examples, benches, dependencies
#   ./ci.sh interop   release build, and real clients against it
#
# Installs what is absent: Debian packages as root, the rest under the target folder.
set -euo pipefail
cd "$(dirname "$0")"
what=${1:-all}
export CARGO_TERM_COLOR=never
target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
started=$SECONDS
section_started=$SECONDS
section_name=

close_section() {
  if [ -n "$section_name" ]; then
    printf -- '---- %s: %d s\n' "$section_name" $((SECONDS - section_started))
  fi
}

section() {
  close_section
  section_name=$1
  section_started=$SECONDS
  printf '\n==== %s\n' "$1"
}

finish() {
  local status=$?
  close_section
  if [ "$status" -eq 0 ]; then
    printf '\nci.sh %s: passed in %d s\n' "$what" $((SECONDS - started))
  else
    printf '\nci.sh %s: FAILED in "%s" after %d s\n' "$what" "$section_name" $((SECONDS - started))
  fi
}
trap finish EXIT

# Debian packages that are absent of those that real clients need, by the program or the library that shows them.
system_packages() {
  local missing=()
  command -v chromium >/dev/null || missing+=(chromium)
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ -e /usr/share/fonts/truetype/dejavu ] || missing+=(fonts-dejavu-core)
  install_packages "${missing[@]}"
}

# What counts instructions in the bench of that name.
valgrind_package() {
  command -v valgrind >/dev/null || install_packages valgrind
}

install_packages() {
  local missing=("$@")
  if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing ${missing[*]}"
    apt-get -q update >"$target/apt.log" 2>&1 || { cat "$target/apt.log"; return 1; }
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}" \
      >>"$target/apt.log" 2>&1 || { tail -n 40 "$target/apt.log"; return 1; }
  fi
}

# The Python environment of the interop tests, made anew when its list changes.
python_environment() {
  local wanted=tests/interop/requirements.txt
  if ! cmp -s "$wanted" "$target/venv/requirements.txt"; then
    rm -rf "$target/venv"
    python3 -m venv "$target/venv"
    "$target/venv/bin/pip" install --quiet --disable-pip-version-check --require-virtualenv -r "$wanted"
    cp "$wanted" "$target/venv/requirements.txt"
  fi
}

node_modules() {
  if ! cmp -s tests/interop/package-lock.json tests/interop/node_modules/.installed-lock; then
    (cd tests/interop && npm ci --no-audit --no-fund)
    cp tests/interop/package-lock.json tests/interop/node_modules/.installed-lock
  fi
}

# cargo-deny compiles in about two minutes, once.
dependencies() {
  export PATH="$target/tools/bin:$PATH"
  if ! command -v cargo-deny >/dev/null; then
    cargo install --quiet --locked --version 0.20.2 --root "$target/tools" --target-dir "$target/tools/build" cargo-deny
  fi
  cargo deny --locked check --hide-inclusion-graph bans licenses sources
  if ! timeout 120 cargo deny --locked check advisories >"$target/advisories.log" 2>&1; then
    if grep -q 'failed to fetch advisory database' "$target/advisories.log"; then
      echo "ADVISORIES NOT CHECKED: the advisory database cannot be reached from this machine."
    else
      cat "$target/advisories.log"
      return 1
    fi
  fi
}

rust_checks() {
  section "formatting"
  cargo fmt --all --check

  section "dependencies"
  cargo fetch --locked
  if ! cargo fetch --locked --manifest-path fuzz/Cargo.toml; then
    echo "fuzz/Cargo.lock is behind: run \`cargo metadata --manifest-path fuzz/Cargo.toml >/dev/null\` and commit it"
    return 1
  fi
  dependencies

  section "lints"
  cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

  section "documentation"
  RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features

  section "tests: unit, simulation, integration, documentation"
  cargo test --locked --workspace --all-features

  section "examples"
  local example
  for example in engine/examples/*.rs; do
    timeout 120 cargo run --locked --quiet -p relay-engine --example "$(basename "$example" .rs)"
  done

  section "benches, one pass each"
  valgrind_package
  cargo bench --locked -p relay-benches --benches -- --test

  section "fuzz targets compile on stable"
  # A check links nothing: without this, libfuzzer-sys would want a C++ compiler to build the fuzzer.
  CUSTOM_LIBFUZZER_PATH="$target/none/libnone.a" \
    cargo check --locked --manifest-path fuzz/Cargo.toml --target-dir "$target"
}

interop() {
  section "system packages"
  system_packages

  section "release build"
  cargo build --locked --release -p relayd

  section "clients that others wrote"
  python_environment
  node_modules

  section "interop: real clients against the release build"
  RELAYD="$target/release/relayd" timeout 1500 "$target/venv/bin/python" -m pytest tests/interop -ra --durations=8
}

case "$what" in
  all) rust_checks; interop ;;
  rust) rust_checks ;;
  interop) interop ;;
  *) echo "usage: ./ci.sh [all|rust|interop]" >&2; exit 2 ;;
esac
