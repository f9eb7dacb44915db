#!/bin/bash
# Turns a Jetson with JetPack 6 or 7 (or a plain Linux machine) into a station. Run it as often as you like.
#
#   sudo ./install.sh                      install or upgrade from the wheels beside this script; no network
#   sudo ./install.sh --wheels DIR         from the wheels in DIR
#   sudo ./install.sh --online             let pip fetch what the folder lacks
#   sudo ./install.sh --keys DIR           whose signature on wheels.sha256 is believed (default: *.pub in /etc/dskd/keys)
#   sudo ./install.sh --unsigned           although nobody who is believed signed it
#   sudo ./install.sh --no-service         without user, systemd units and log rotation (containers)
#   sudo ./install.sh --uninstall          remove the software; data and settings stay
#   sudo ./install.sh --uninstall --purge  remove data and settings too
#
# The software goes to /opt/dskd, settings to /etc/dskd, data to /var/lib/dskd. Exit code 0: done, or nothing to do;
# 1: it failed and what ran before runs on; 2: the call was wrong; 3: this machine lacks something.
set -euo pipefail
umask 022

readonly PREFIX=/opt/dskd CONFIG=/etc/dskd DATA=/var/lib/dskd LOGS=/var/log/dskd SERVICE_USER=dskd
readonly UNITS=/etc/systemd/system JOURNAL=/etc/systemd/journald@dskd.conf ROTATION=/etc/logrotate.d/dskd
readonly UDEV_RULE=/etc/udev/rules.d/99-dskd-gpio.rules
readonly COMMAND=/usr/local/bin/dskd PYTHON=/usr/bin/python3
readonly UNIT_FILES=(dskd-station.service dskd-agent.service dskd-switch.path dskd-switch.service dskd-argus.path dskd-argus.service)
readonly EXTRAS=line,fleet,gpu
readonly LIST=wheels.sha256 LIST_HEAD="# dskd-edge wheels 1"
readonly DEVICE_GROUPS=(video render gpio i2c dialout)

keys="" unsigned=no
wheels="" online=no service=yes action=install purge=no changed=0 generation="" scratch="" made_user=no made_gpio=no

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
refuse() { printf 'error: %s\n' "$2" >&2; exit "$1"; }
did() { changed=$((changed + 1)); say "$*"; }

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --wheels) [ $# -ge 2 ] || refuse 2 "--wheels needs a folder"; wheels=$2; shift ;;
            --online) online=yes ;;
            --keys) [ $# -ge 2 ] || refuse 2 "--keys needs a folder"; keys=$2; shift ;;
            --unsigned) unsigned=yes ;;
            --no-service) service=no ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
            *) refuse 2 "no option $1; --help tells more" ;;
        esac
        shift
    done
    [ "$purge" = no ] || [ "$action" = uninstall ] || refuse 2 "--purge goes with --uninstall"
    [ "$(id -u)" = 0 ] || refuse 2 "this needs root: sudo $0"
}

# ------------------------------------------------------------------------------------------------- what machine is this

know_machine() {
    local release major python
    [ -x "$PYTHON" ] || refuse 3 "$PYTHON is missing; sudo apt install python3"
    python=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    release=$(head -n 1 /etc/nv_tegra_release 2>/dev/null || true)
    if [ -z "$release" ]; then
        warn "no /etc/nv_tegra_release: not a Jetson, or without L4T; installing for a plain machine"
        case $python in
            3.10) generation=jp6 ;;
            3.1[1-9]) generation=jp7 ;;
            *) refuse 3 "Python $python is too old; 3.10 or newer is needed" ;;
        esac
        return
    fi
    major=$(printf '%s' "$release" | sed -n 's/.*R\([0-9][0-9]*\) (release).*/\1/p')
    case "$major:$python" in
        36:3.10) generation=jp6 ;;
        38:3.12 | 39:3.12) generation=jp7 ;;
        3[0-5]:*) refuse 3 "L4T R$major (JetPack 5 or older) has Python $python; flash JetPack 6.2 or 7.2" ;;
        *:3.10) generation=jp6; warn "L4T R${major:-?} is not known; its Python is that of JetPack 6, going on with that" ;;
        *:3.1[2-9]) generation=jp7; warn "L4T R${major:-?} is not known; going on as on JetPack 7" ;;
        *) refuse 3 "L4T R${major:-?} with Python $python is no JetPack that this knows; 6.x has 3.10, 7.x has 3.12" ;;
    esac
    say "L4T R$major, Python $python: $generation"
}

# The system's OpenCV brings GStreamer: it is never hidden by pip's, and NumPy must stay of the kind it was built for.
system_opencv() {
    (cd / && "$PYTHON" -I -c 'import cv2, numpy; print(cv2.__version__, numpy.__version__.split(".")[0])') 2>/dev/null || true
}

# ---------------------------------------------------------------------------------------------------------- software

find_wheels() {
    [ -n "$wheels" ] || wheels=$(cd "$(dirname "$0")" && pwd)
    [ -d "$wheels" ] || refuse 2 "--wheels $wheels: no such folder"
    wheels=$(cd "$wheels" && pwd)
    local own=("$wheels"/dskd_edge-*.whl)
    [ -e "${own[0]}" ] || refuse 2 "$wheels: no dskd_edge-*.whl there; make the folder with: dskd jetson wheels --for $generation"
    [ ${#own[@]} = 1 ] || refuse 2 "$wheels: more than one dskd_edge-*.whl; leave one"
    wheel=${own[0]}
    local pips=("$wheels"/pip-*.whl)
    [ -e "${pips[0]}" ] || refuse 3 "$wheels: no pip-*.whl there; make the folder with: dskd jetson wheels --for $generation"
    pip_wheel=${pips[-1]}
}

# Before anything of the folder is run: every wheel is in the list, as it was, and one who is believed signed the list.
verify_wheels() {
    local file key
    if [ ! -e "$wheels/$LIST" ]; then
        must_be_signed "$wheels: has no $LIST"
        return
    fi
    [ "$(head -n 1 "$wheels/$LIST")" = "$LIST_HEAD" ] || refuse 1 "$wheels/$LIST: is no list of wheels; make the folder again"
    for file in "$wheels"/*.whl; do
        grep -qxE "[0-9a-f]{64}  $(basename "$file" | sed 's/[.+]/[&]/g')" "$wheels/$LIST" ||
            refuse 1 "$file: is not in $LIST; remove it, or make the folder again"
    done
    (cd "$wheels" && sha256sum --check --strict --quiet "$LIST" >/dev/null 2>&1) ||
        refuse 1 "$wheels: not what $LIST says, see: cd $wheels && sha256sum --check --quiet $LIST; copy the folder again"
    for key in "${keys:-$CONFIG/keys}"/*.pub; do
        for file in "$wheels/$LIST".*.sig; do
            if [ -e "$key" ] && [ -e "$file" ] && signed_by "$key" "$file"; then
                say "wheels: as listed, signed by $(basename "$key" .pub)"
                return
            fi
        done
    done
    must_be_signed "$wheels/$LIST: is signed by nobody in ${keys:-$CONFIG/keys}"
}

signed_by() { # signed_by KEY SIGNATURE
    command -v openssl >/dev/null || refuse 3 "openssl is missing; sudo apt install openssl"
    openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$wheels/$LIST" -sigfile "$2" >/dev/null 2>&1
}

must_be_signed() { # must_be_signed WHAT: a device that knows whom to believe takes nothing else without being told
    if [ "$unsigned" = no ] && [ -n "$(ls "${keys:-$CONFIG/keys}"/*.pub 2>/dev/null)" ]; then
        refuse 1 "$1; sign it with: dskd jetson wheels --key, or install all the same with --unsigned"
    fi
    warn "$1: nobody vouches for these wheels"
}

write_constraints() {
    "$PYTHON" -I -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
        "$wheel" "dskd/jetson/constraints-$generation.txt" >"$1" || refuse 1 "$wheel: is damaged; copy it again"
    if [ "${opencv##* }" = 1 ]; then printf 'numpy<2\n' >>"$1"; fi
}

# One name for all that an installation follows from: the same name again means that there is nothing to do.
stamp() {
    (
        "$PYTHON" -V
        printf '%s\n' "$opencv" "$generation" "$EXTRAS" "$online"
        cd "$wheels" && sha256sum -- *.whl
    ) | sha256sum | cut -c 1-16
}

pip_in() { # pip_in ENVIRONMENT ARGUMENTS...: the wheel folder's pip, so that neither ensurepip nor a network is needed
    local environment=$1
    shift
    PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
        PYTHONPATH=$pip_wheel "$environment/bin/python" -m pip "$@"
}

install_software() {
    local name release
    opencv=$(system_opencv)
    if [ -z "$opencv" ]; then
        warn "the system has no OpenCV for $PYTHON: pip's is installed, without GStreamer (CSI cameras, hardware decoders);" \
            "for those: sudo apt install python3-opencv, and run this again"
    else
        say "the system's OpenCV ${opencv% *} stays (NumPy ${opencv##* })"
    fi
    name=$(stamp)
    release=$PREFIX/releases/$name
    if [ "$(readlink "$PREFIX/venv" 2>/dev/null)" = "releases/$name" ] && [ -e "$release/.complete" ]; then
        say "software: $name is installed already"
        return
    fi
    mkdir -p "$PREFIX/releases"
    rm -rf "$release" # what a cut-off installation left
    "$PYTHON" -m venv --without-pip --system-site-packages "$release" || refuse 3 "python3 -m venv failed; sudo apt install python3-venv"
    install_wheels "$release"
    (cd / && "$release/bin/python" -c 'import cv2, numpy, onnxruntime, dskd.runtime, dskd.jetson') ||
        refuse 1 "the new software does not import; nothing was switched over, $release/bin/python tells more"
    : >"$release/.complete"
    sync -f "$PREFIX" 2>/dev/null || sync
    ln -sfn "releases/$name" "$PREFIX/.venv.new"
    mv -T "$PREFIX/.venv.new" "$PREFIX/venv"
    did "software: $name installed"
    find "$PREFIX/releases" -mindepth 1 -maxdepth 1 ! -name "$name" -exec rm -rf {} +
}

install_wheels() {
    local where=(--find-links "$wheels") chosen
    [ "$online" = yes ] || where+=(--no-index)
    write_constraints "$scratch/constraints.txt"
    pip_in "$1" install --quiet --dry-run --report "$scratch/report.json" "${where[@]}" \
        --constraint "$scratch/constraints.txt" "dskd-edge[$EXTRAS] @ file://$wheel" ||
        refuse 1 "the wheels in $wheels do not go together on this machine; make the folder with: dskd jetson wheels --for $generation"
    # what pip chose, but for OpenCV where the system has one
    # with the hashes that were verified; of what --online fetched, those of what was looked at
    chosen=$("$PYTHON" -I - "$scratch/report.json" "$wheels/$LIST" "${opencv:+keep}" <<'PYTHON'
import json, os, sys
from urllib.parse import unquote, urlsplit
listed = {}
if os.path.exists(sys.argv[2]):
    lines = [line.split() for line in open(sys.argv[2]) if not line.startswith("#")]
    listed = {name: digest for digest, name in lines}
for package in json.load(open(sys.argv[1]))["install"]:
    name, info = package["metadata"]["name"], package["download_info"]
    if not (name.lower().startswith("opencv") and sys.argv[3]):
        file = os.path.basename(unquote(urlsplit(info["url"]).path))
        digest = listed.get(file) or info["archive_info"]["hashes"]["sha256"]
        print(f"{name} @ {info['url']} --hash=sha256:{digest}")
PYTHON
    )
    printf '%s\n' "$chosen" >"$scratch/requirements.txt"
    pip_in "$1" install --quiet --no-deps --no-index --require-hashes --no-warn-script-location --requirement "$scratch/requirements.txt" ||
        refuse 1 "pip could not install the wheels, or they are not what was verified"
}

# ------------------------------------------------------------------------------------------------------------ service

put() { # put SOURCE TARGET: writes only where it differs, whole or not at all
    if cmp -s "$1" "$2"; then return; fi
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.dskd-new"
    chmod 644 "$2.dskd-new"
    mv "$2.dskd-new" "$2"
    did "wrote $2"
}

make_user() {
    if ! getent_user; then
        useradd --system --user-group --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin "$SERVICE_USER" 2>/dev/null ||
            refuse 1 "the user $SERVICE_USER could not be made"
        made_user=yes
        did "made the user $SERVICE_USER"
    fi
    local group
    if [ -n "$(ls /dev/gpiochip* 2>/dev/null)" ] && ! grep -q "^gpio:" /etc/group; then
        groupadd --system gpio || refuse 1 "the group gpio could not be made"
        made_gpio=yes
        did "made the group gpio"
    fi
    for group in "${DEVICE_GROUPS[@]}"; do
        if grep -q "^$group:" /etc/group && ! id -Gn "$SERVICE_USER" | tr ' ' '\n' | grep -qx "$group"; then
            usermod -aG "$group" "$SERVICE_USER"
            did "put $SERVICE_USER into the group $group"
        fi
    done
}

getent_user() { grep -q "^$SERVICE_USER:" /etc/passwd; }

make_folder() { # make_folder PATH OWNER MODE
    if [ -d "$1" ]; then return; fi
    mkdir -p "$1"
    chown "$2:$2" "$1"
    chmod "$3" "$1"
    did "made $1"
}

make_secrets() { # NAME=VALUE lines for ${NAME} in the station's and the fleet's file
    if [ ! -e "$CONFIG/environment" ]; then
        (umask 077 && : >"$CONFIG/environment")
        chown "root:$SERVICE_USER" "$CONFIG/environment"
        chmod 640 "$CONFIG/environment"
        did "made $CONFIG/environment for secrets"
    elif [ -n "$(find "$CONFIG/environment" -maxdepth 0 -perm /007)" ]; then
        warn "$CONFIG/environment: every user may read its secrets; chmod 640 it"
    fi
}

install_service() {
    local files unit
    files=$("$PREFIX/venv/bin/python" -c 'import dskd.jetson, os; print(os.path.dirname(dskd.jetson.__file__))')/systemd
    make_user
    make_folder "$CONFIG" root 755
    make_folder "$CONFIG/keys" root 755
    make_secrets
    make_folder "$DATA" "$SERVICE_USER" 750
    [ "$made_user" = no ] || : >"$DATA/.made-user" # so that --purge removes a user of ours, and no other
    [ "$made_gpio" = no ] || : >"$DATA/.made-gpio"
    make_folder "$LOGS" "$SERVICE_USER" 750
    give_gpio "$files"
    for unit in "${UNIT_FILES[@]}"; do put "$files/$unit" "$UNITS/$unit"; done
    put "$files/journald@dskd.conf" "$JOURNAL"
    put "$files/logrotate" "$ROTATION"
    if [ ! -d /run/systemd/system ]; then
        warn "systemd does not run here: the units are in place and nothing was started"
        return
    fi
    [ "$changed" = 0 ] || systemctl daemon-reload
    start_units
}

give_gpio() { # give_gpio FOLDER: the lines belong to root alone where NVIDIA's package for them is not installed
    local before=$changed
    if ! grep -q "^gpio:" /etc/group; then return; fi
    put "$1/99-dskd-gpio.rules" "$UDEV_RULE"
    if [ "$changed" != "$before" ] && [ -d /run/udev ]; then
        { udevadm control --reload && udevadm trigger --subsystem-match=gpio; } || warn "udev does not take $UDEV_RULE; reboot"
    fi
}

start_units() {
    local unit file
    for unit in dskd-switch.path dskd-argus.path; do
        systemctl is-enabled --quiet "$unit" || { systemctl enable --quiet --now "$unit" && did "enabled $unit"; }
    done
    for unit in station:station.yaml agent:fleet.yaml; do
        file=$CONFIG/${unit#*:} unit=dskd-${unit%%:*}.service
        if [ ! -e "$file" ]; then
            say "next: write $file, then: sudo systemctl enable --now $unit"
        elif ! systemctl is-enabled --quiet "$unit"; then
            systemctl enable --quiet --now "$unit" && did "enabled $unit"
        elif [ "$changed" != 0 ]; then
            systemctl restart "$unit" && did "restarted $unit"
        fi
    done
}

# ---------------------------------------------------------------------------------------------------------- uninstall

uninstall() {
    local unit file
    if [ -d /run/systemd/system ]; then
        for unit in "${UNIT_FILES[@]}"; do systemctl disable --quiet --now "$unit" 2>/dev/null || true; done
    fi
    for unit in "${UNIT_FILES[@]}"; do remove "$UNITS/$unit"; done
    for file in "$JOURNAL" "$ROTATION" "$UDEV_RULE" "$COMMAND"; do remove "$file"; done
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    if [ "$purge" = yes ]; then
        if [ -e "$DATA/.made-user" ] && getent_user; then
            userdel "$SERVICE_USER" 2>/dev/null && did "removed the user $SERVICE_USER"
        fi
        if [ -e "$DATA/.made-gpio" ]; then
            groupdel gpio 2>/dev/null && did "removed the group gpio"
        fi
        remove "$CONFIG"
        remove "$DATA"
        remove "$LOGS"
    elif [ -e "$DATA" ] || [ -e "$CONFIG" ]; then
        say "kept $DATA, $LOGS, $CONFIG and the user $SERVICE_USER; --uninstall --purge removes them"
    fi
    remove "$PREFIX"
    find "$UNITS" "$(dirname "$ROTATION")" "$(dirname "$COMMAND")" -maxdepth 1 -name '*.dskd-new' -delete 2>/dev/null || true
}

remove() {
    if [ -e "$1" ] || [ -L "$1" ]; then
        rm -rf -- "$1"
        did "removed $1"
    fi
}

main() {
    read_arguments "$@"
    if [ "$action" = uninstall ]; then
        uninstall
    else
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        know_machine
        find_wheels
        verify_wheels
        install_software
        if [ "$(readlink "$COMMAND" 2>/dev/null)" != "$PREFIX/venv/bin/dskd" ]; then
            mkdir -p "$(dirname "$COMMAND")"
            ln -sfn "$PREFIX/venv/bin/dskd" "$COMMAND"
            did "linked $COMMAND"
        fi
        [ "$service" = no ] || install_service
    fi
    if [ "$changed" = 0 ]; then say "nothing was changed"; fi
    if [ "$action" = install ]; then say "next: dskd jetson doctor"; fi
}

main "$@"
