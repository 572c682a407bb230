# Which Rust compiles for wasm32-unknown-unknown here. Read by `plugins/build` and by the `build` of a plugin's project.
#
# In this order: the user's own toolchain, if it has the target; rustup, which can add it; Debian's packages, whose
# compiler brings the sources of the standard library. `choose_toolchain` finds it, `wasm_cargo` calls its cargo.

target=wasm32-unknown-unknown
debian_packages="rustc-web cargo-web rust-web-src lld"

say() { printf '%s: %s\n' "$0" "$*" >&2; }

# An outer cargo (make run through cargo, a test, a build script) leaves settings that are meant for its own build.
# What concerns the network, the registry and where cargo lives stays.
forget_outer_cargo() {
    for variable in $(env | sed -n 's/^\(CARGO_[A-Za-z0-9_]*\)=.*/\1/p'); do
        case $variable in
        CARGO_HOME | CARGO_HTTP_* | CARGO_NET_* | CARGO_REGISTR* | CARGO_SOURCE_* | CARGO_TERM_* | CARGO_BUILD_JOBS) ;;
        *) unset "$variable" ;;
        esac
    done
    unset CARGO RUSTC RUSTDOC RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER RUSTFLAGS RUSTDOCFLAGS
}

has_target() {
    library=$(rustc --print target-libdir --target $target 2>/dev/null) && [ -n "$(find "$library" -name 'libstd-*.rlib' 2>/dev/null)" ]
}

has_packaged() {
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && command -v wasm-ld >/dev/null &&
        [ -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library/std" ]
}

# Sets `toolchain` to own or packaged. The arguments, if any, are a command that may install Debian's packages.
choose_toolchain() {
    if has_target; then
        toolchain=own
    elif command -v rustup >/dev/null && say "asking rustup for $target" && rustup target add $target >&2 && has_target; then
        toolchain=own
    elif has_packaged || { [ $# -gt 0 ] && "$@" && has_packaged; }; then
        toolchain=packaged
    else
        say "no Rust here compiles for $target. One of these two commands helps:"
        say "    rustup target add $target"
        say "    apt-get install --no-install-recommends $debian_packages"
        exit 1
    fi
}

# Cargo, with its arguments, for the target.
wasm_cargo() {
    command=$1
    shift
    case $toolchain in
    own) cargo "$command" --target $target "$@" ;;
    packaged)
        # -Zbuild-std is not stable, hence RUSTC_BOOTSTRAP; an outer cargo's LD_LIBRARY_PATH names its own compiler's libraries.
        env -u LD_LIBRARY_PATH -u RUSTUP_TOOLCHAIN RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld \
            /usr/bin/cargo "$command" --target $target -Zbuild-std=std,panic_abort "$@"
        ;;
    esac
}
