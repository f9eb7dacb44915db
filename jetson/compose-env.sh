#!/bin/sh
# What compose.yaml must know of this device, as lines of an .env file. Needs no rights. ROOT is for tests.
set -eu
root=${ROOT:-}

group_of() { stat -c %g "$1" 2>/dev/null || true; } # of a device node; none where it is absent
first() { for file in "$@"; do if [ -e "$file" ]; then printf '%s\n' "$file"; return; fi; done; }
line() { if [ -n "$2" ]; then printf '%s=%s\n' "$1" "${2#"$root"}"; fi; }

line DSKD_VIDEO "$(group_of "$root/dev/nvmap")"
line DSKD_RENDER "$(group_of "$(first "$root"/dev/dri/renderD*)")"
chip=$(first "$root"/dev/gpiochip*)
line DSKD_GPIOCHIP "$chip"
line DSKD_GPIO "$(group_of "$chip")"
if [ -e "$root/tmp/argus_socket" ]; then
    line COMPOSE_PROFILES csi
else
    line COMPOSE_PROFILES plain
    # a USB camera has two nodes, the second for its data about pictures
    line DSKD_CAMERA "$(first "$root/dev/video0")"
    line DSKD_CAMERA_2 "$(first "$root/dev/video2")"
fi
case $(head -n 1 "$root/etc/nv_tegra_release" 2>/dev/null || true) in
    *R3[89]*) line DSKD_GENERATION jp7 ;;
esac
