#!/bin/sh
# What compose.yaml must know of this device, as lines of an .env file. Needs no rights. ROOT is for tests.
set -eu
root=${ROOT:-}

group_of() { stat -c %g "$1" 2>/dev/null || true; } # of a device node; none where it is absent
first() { for file in "$@"; do if [ -e "$file" ]; then printf '%s\n' "$file"; return; fi; done; }
line() { if [ -n "$2" ]; then printf '%s=%s\n' "$1" "${2#"$root"}"; fi; }

cameras() { # cameras usb|other: nodes that give pictures; a USB camera has a second one, for its data about pictures
    printf '%s\n' "$root"/dev/video* | sort -V | while read -r node; do
        about=$root/sys/class/video4linux/${node##*/}
        if [ ! -e "$node" ] || [ "$(cat "$about/index" 2>/dev/null || echo 0)" != 0 ]; then continue; fi
        case $(readlink -f "$about") in */usb[0-9]*) bus=usb ;; *) bus=other ;; esac
        if [ "$bus" = "$1" ]; then printf '%s\n' "$node"; fi
    done
}

line DSKD_VIDEO "$(group_of "$root/dev/nvmap")"
line DSKD_RENDER "$(group_of "$(first "$root"/dev/dri/renderD*)")"
chip=$(first "$root"/dev/gpiochip*)
line DSKD_GPIOCHIP "$chip"
line DSKD_GPIO "$(group_of "$chip")"
# NVIDIA's camera daemon runs on every JetPack, so the profile says nothing of the USB cameras beside it
if [ -e "$root/tmp/argus_socket" ]; then line COMPOSE_PROFILES csi; else line COMPOSE_PROFILES plain; fi
names="DSKD_CAMERA DSKD_CAMERA_2 DSKD_CAMERA_3 DSKD_CAMERA_4"
for node in $(cameras usb) $(cameras other); do # a CSI sensor has a node too, which the daemon does not need
    line "${names%% *}" "$node"
    case $names in *" "*) names=${names#* } ;; *) break ;; esac
done
case $(head -n 1 "$root/etc/nv_tegra_release" 2>/dev/null || true) in
    *R3[89]*) line DSKD_GENERATION jp7 ;;
esac
