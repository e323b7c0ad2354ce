#!/usr/bin/env bash
# The runtime on an emulated arm64 Debian: its tests, and its labels beside this machine's (make test-aarch64).
#
# Needs root (chroot, mounts) and a Debian or Ubuntu on x86-64; installs the packages that it lacks by
# apt-get. The system is made once, under EDGESEG_ARM_CACHE (the user's cache folder by default), which
# may be removed at any time. Nothing stays mounted.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache="${EDGESEG_ARM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgeseg/arm64}"
root="$cache/root" # the system
networks="$cache/networks"
python=.venv/bin/python
suite=bookworm # Python 3.11; mirror: EDGESEG_ARM_MIRROR, else debootstrap's own
libraries=(numpy onnxruntime pillow onnx pytest hypothesis)
platforms=(manylinux_2_28_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64)
binfmt=/proc/sys/fs/binfmt_misc

# Those of unit and contract that need neither torch nor an engine other than ONNX Runtime.
tests=(
    tests/unit/test_{boards,bundle,decode,decode_native,decode_segmenter,frame,gate,labels,metrics}.py
    tests/unit/test_{prepare_native,recipe,segmenter}.py
    tests/contract/test_engines.py
)

die() {
    printf 'test-aarch64: %s\n' "$*" >&2
    exit 2
}

mounted=()
cleanup() {
    local i
    for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
        # debootstrap's second stage unmounts what it found mounted.
        ! mountpoint -q "${mounted[i]}" || umount --lazy "${mounted[i]}" || true
    done
    mounted=()
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mount_at() { # KIND FOLDER
    mount -t "$1" "$1" "$2"
    mounted+=("$2")
}

times="" failed=0
step() { # NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    times+=$(printf '%-12s %5d s' "$name" "$((SECONDS - start))")$'\n'
}

inside() { # COMMAND... in the emulated system, with nothing of this one's environment
    chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONPATH=/edgeseg/site \
        PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 "$@"
}

packages() {
    local missing=() pair
    for pair in debootstrap:debootstrap qemu-aarch64-static:qemu-user-static \
        update-binfmts:binfmt-support aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    # Without it Ubuntu's debootstrap takes Debian's packages unverified.
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
    if ((${#missing[@]})); then
        command -v apt-get >/dev/null || die "needs ${missing[*]}, and there is no apt-get to install them with"
        printf 'installing %s\n' "${missing[*]}"
        apt-get -qq update
        apt-get -qqy install "${missing[@]}" >/dev/null
    fi
}

emulation() {
    [[ -e $binfmt/register ]] || mount_at binfmt_misc "$binfmt"
    [[ -e $binfmt/qemu-aarch64 ]] || update-binfmts --enable qemu-aarch64
}

system() { # debootstrap in two stages; half a system is made anew
    local log="$cache/debootstrap.log"
    if [[ ! -e $cache/made ]]; then
        ! grep -qs " $root/" /proc/mounts || die "$root has mounts in it; umount them first"
        rm -rf "$root"
        debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 "$suite" "$root" \
            ${EDGESEG_ARM_MIRROR:+"$EDGESEG_ARM_MIRROR"} >"$log" ||
            die "debootstrap got no system: $log; EDGESEG_ARM_MIRROR=URL names another mirror"
        mount_at proc "$root/proc"
        chroot "$root" /debootstrap/debootstrap --second-stage >>"$log" ||
            die "debootstrap's second stage failed: $log and $root/debootstrap/debootstrap.log"
        touch "$cache/made"
    fi
    grep -qs " $root/proc " /proc/mounts || mount_at proc "$root/proc"
    # No /sys: the processors it lists are not those emulated, and ONNX Runtime crashes on reading them.
    inside sh -c '. /etc/os-release; echo "$PRETTY_NAME, $(uname -m), $(python3 --version), glibc $(ldd --version | sed -n "1s/.* //p")"'
}

into_site() { # pip on this machine installs for that one, which is quicker than under emulation
    "$python" -m pip install --quiet --upgrade --target "$root/edgeseg/site" --only-binary=:all: \
        --python-version 3.11 "${platforms[@]/#/--platform=}" --constraint constraints.txt "$@"
}

wheels() { # the wheel from this tree; the libraries once, and again when constraints.txt changes
    local wanted="${libraries[*]} $(sha256sum constraints.txt)"
    rm -rf "$root/edgeseg/site/edgeseg"* "$cache/dist"
    "$python" scripts/build_wheels.py --out "$cache/dist" manylinux_2_28_aarch64
    if [[ "$(cat "$root/edgeseg/libraries" 2>/dev/null)" != "$wanted" ]]; then
        rm -rf "$root/edgeseg/site"
        into_site "${libraries[@]}"
        printf '%s\n' "$wanted" >"$root/edgeseg/libraries"
    fi
    into_site --no-deps "$cache"/dist/*.whl
}

expected() { # what this machine makes of fixed inputs; the two networks are exported once
    local pair given="$root/edgeseg/given"
    for pair in fp32:scores int8:labels; do
        [[ -e $networks/${pair%:*}/manifest.json ]] || .venv/bin/edgeseg export espnet_q3 \
            --target onnxruntime --precision "${pair%:*}" --output "${pair#*:}" --size 256x512 \
            --out "$networks/${pair%:*}"
    done
    rm -rf "$given" "$root/edgeseg/networks"
    cp -r "$networks" "$root/edgeseg/"
    cp scripts/fixed_labels.py "$root/edgeseg/"
    "$python" scripts/fixed_labels.py write "$given" "$networks"/{fp32,int8}
}

compared() {
    inside python3 /edgeseg/fixed_labels.py check /edgeseg/given /edgeseg/networks/{fp32,int8} || failed=1
}

tested() {
    rm -rf "$root/edgeseg/check"
    mkdir "$root/edgeseg/check"
    cp -r tests pyproject.toml "$root/edgeseg/check/"
    inside sh -c 'cd /edgeseg/check && exec python3 -m pytest -p no:cacheprovider -q -k "not OpenVino" --durations=5 "$@"' sh "${tests[@]}" || failed=1
}

((EUID == 0)) || die "needs root, for chroot and mounts: sudo make test-aarch64"
[[ $(uname -m) == x86_64 ]] || die "is for x86-64; on $(uname -m), make test runs on the machine itself"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || die "another one runs in $cache"

step packages packages
step emulation emulation
step system system
step wheels wheels
step expected expected
step labels compared
step tests tested
printf '\n%s%-12s %5d s\n' "$times" "in all" "$SECONDS"
exit "$failed"
