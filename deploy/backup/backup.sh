# backup.sh - what the backup scripts share; sourced by them (bash).
#
# A backup is a directory BACKUP_DIR/KIND/TIME-WHAT with its files, `manifest` (key=value lines) and SHA256SUMS. It is
# made as .partial-… and renamed when all of it is on the disk: what has a name is whole. Times are UTC.
#
# Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 another one is running, 4 a backup is damaged,
# 5 the target is not empty.
# shellcheck shell=bash

FAILED=1 USAGE=2 BUSY=3 DAMAGED=4
# shellcheck disable=SC2034 # chatd-restore
NOT_EMPTY=5
me=${0##*/}
partial='' scratch=''
umask 077

say() { printf '%s: %s\n' "$me" "$*" >&2; }

die() {
    local code=$1
    shift
    say "event=failed error=\"$*\""
    exit "$code"
}

# `usage` is each script's own. Asked for, it is what the script is run for: standard output, and no event.
help_if_asked() {
    local word
    for word in "$@"; do
        case $word in --help | -h) usage && exit 0 ;; esac
    done
}

misused() {
    usage >&2
    exit $USAGE
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die $USAGE "$tool is not installed"
    done
}

# Whatever the end was: nothing half-made stays, and no file with a password.
clean_up() {
    [ -z "$partial" ] || rm -rf -- "$partial"
    [ -z "$scratch" ] || rm -rf -- "$scratch"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

make_scratch() { scratch=$(mktemp -d) || die $FAILED "no temporary directory"; }

is_number() { [[ $1 =~ ^[0-9]{1,9}$ ]]; }

# A number from 1 that can be counted to.
is_count() { [[ $1 =~ ^[1-9][0-9]{0,8}$ ]]; }

# begin KIND WHAT: takes the lock of that kind of backup and makes the directory for a new one.
begin() {
    kind_dir=${BACKUP_DIR:=/var/backups/chatd}/$1
    mkdir -p -- "$kind_dir" || die $FAILED "$kind_dir can't be made"
    exec 9>"$kind_dir/.lock" || die $FAILED "$kind_dir can't be written"
    flock -n 9 || die $BUSY "another $1 backup is running"
    rm -rf -- "$kind_dir"/.partial-*
    started=$(date +%s)
    name=$(date -u -d "@$started" +%Y%m%dT%H%M%SZ)-$2
    [ ! -e "$kind_dir/$name" ] || die $BUSY "$name was made this very second"
    partial=$kind_dir/.partial-$name
    mkdir -- "$partial" || die $FAILED "$partial can't be made"
    note kind "$1"
    note what "$2"
    note started "$started"
    note host "$(uname -n)"
    say "event=begin backup=$kind_dir/$name"
}

note() { printf '%s=%s\n' "$1" "$2" >>"$partial/manifest"; }

noted() { sed -n "s/^$2=//p" "$1/manifest"; }

# The new backup gets its name. Only then may older ones go.
finish() {
    local bytes
    (cd -- "$partial" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS) ||
        die $FAILED "checksums can't be written"
    find "$partial" -exec sync -- {} + || die $FAILED "the disk doesn't take it"
    mv -T -- "$partial" "$kind_dir/$name" || die $FAILED "$name can't be renamed"
    partial=
    sync -- "$kind_dir"
    bytes=$(du -sb -- "$kind_dir/$name" | cut -f1)
    say "event=done backup=$kind_dir/$name bytes=$bytes seconds=$(($(date +%s) - started))"
}

# Names sort by time.
sets() { find "$1" -mindepth 1 -maxdepth 1 -type d -name "[0-9]*T[0-9]*Z-$2" -printf '%f\n' | sort; }

forget() {
    local old
    for old in "$@"; do
        say "event=forget backup=$kind_dir/$old"
        # Without its name first: what can't be removed whole doesn't look like a backup.
        mv -T -- "$kind_dir/$old" "$kind_dir/.partial-old-$old" && rm -rf -- "$kind_dir/.partial-old-$old"
    done
}

# keep_newest COUNT WHAT
keep_newest() {
    local old
    mapfile -t old < <(sets "$kind_dir" "$2" | head -n "-$1")
    forget "${old[@]}"
}

# verify DIRECTORY: every file is there as it was written, and none besides.
verify() {
    [ -f "$1/SHA256SUMS" ] && [ -f "$1/manifest" ] || die $DAMAGED "$1 is no backup"
    (cd -- "$1" && sha256sum --check --strict --quiet SHA256SUMS >&2) || die $DAMAGED "$1 is damaged"
    (cd -- "$1" && diff <(find . -type f ! -name SHA256SUMS | sort) <(sed 's/^.\{64\}  //' SHA256SUMS | sort) >&2) ||
        die $DAMAGED "$1 has other files than it was made with"
}

# ---- MongoDB ----

# mongo_settings: the URI goes to a file, command lines are for everybody to read. Sets `database` and
# `mongo`, the options that all of the tools take.
mongo_settings() {
    local rest uri
    [ -n "${MONGODB_URI:-}" ] || die $USAGE "MONGODB_URI is not set"
    [[ $MONGODB_URI == mongodb://* || $MONGODB_URI == mongodb+srv://* ]] ||
        die $USAGE "MONGODB_URI is no mongodb:// URI"
    rest=${MONGODB_URI#*://}
    database=
    [[ $rest != */* ]] || database=${rest#*/}
    database=${database%%\?*}
    make_scratch
    # The tools take its milliseconds for seconds (100.17).
    uri=$(sed -E 's/([?&])serverSelectionTimeoutMS=[0-9]*&?/\1/I' <<<"$MONGODB_URI")
    uri=${uri//\\/\\\\}
    printf 'uri: "%s"\n' "${uri//\"/\\\"}" >"$scratch/mongo.yaml"
    mongo=(--config="$scratch/mongo.yaml")
    [ -n "$database" ] || mongo+=(--db=chat_app)
    database=${database:-chat_app}
}
