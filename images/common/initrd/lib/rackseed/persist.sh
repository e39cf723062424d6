# What outlives a reboot: bind mounts of real directories of the state disk, seeded from the image. Never overlay uppers: containers need a real file system.
STAGE=${STAGE:-/run/initramfs}
ROOT=${ROOT:-/root}

# Each `persist PATH` of the image's layout. Without a disk the same directories lie in one tmpfs: they are as real, and gone with the power.
persist() {
  why='no tmpfs could be mounted for what a disk would keep'
  if ! is_mounted "$STAGE/disk"; then
    mkdir -p "$STAGE/disk"
    mount -t tmpfs -o size=60%,mode=0755 state "$STAGE/disk" || return 2
  fi
  (umask 077; mkdir -p "$STAGE/disk/.rackseed") || { why="$STAGE/disk could not be written"; return 2; }
  each_of_layout persist keep_path || return
  keep_boot
}

keep_path() { # PATH
  own=$STAGE/disk/persist$1
  seed "$1" || return
  why="$1 could not be mounted from the state disk"
  is_directory "$own" || { why="persist$1 on the state disk is no directory"; return 2; }
  mkdir -p "$ROOT$1" && mount -o bind "$own" "$ROOT$1" || return 2
  # Caches are nobody's state: in RAM, and empty at each boot but for their directories.
  if [ "$1" = /var ] && is_directory "$STAGE/lower/var/cache" && is_directory "$ROOT/var/cache"; then
    mount -t tmpfs -o size=20%,mode=0755 cache "$ROOT/var/cache" && cp -a "$STAGE/lower/var/cache/." "$ROOT/var/cache/" || return 2
  fi
}

# Brings what the image has below PATH and the disk has not, once for each image. In two passes, so that a power cut leaves nothing half there: all that
# is missing is copied aside, and when that is on the disk for sure, renamed into place. What died on the way is copied anew.
seed() { # PATH
  mark=$STAGE/disk/.rackseed/seeded$1.from aside=$STAGE/disk/.rackseed/seed
  from=$STAGE/lower$1 own=$STAGE/disk/persist$1
  seeded=
  [ ! -e "$mark" ] || read -r seeded <"$mark"
  if [ "$seeded" = "$squashfs_digest" ] && [ -d "$own" ]; then return 0; fi
  why="$1 could not be seeded on the state disk, is it full? ($(df -kP "$STAGE/disk" | tail -n 1 | { read -r _ _ _ free _; echo "$free KiB free"; }))"
  rm -rf "$aside"
  mkdir -p "${own%/*}" "${mark%/*}" "$aside" || return 2
  count=0
  over copy_aside "$from" "$own" || return 2
  sync -f "$STAGE/disk"
  total=$count count=0
  over put_in_place "$from" "$own" || return 2
  sync -f "$STAGE/disk"
  echo "$squashfs_digest" >"$mark" && sync -f "$STAGE/disk" || return 2
  rm -rf "$aside"
  if [ "$seeded" ]; then say "$1: $total entries came with the new image"; else say "$1 is seeded from the image"; fi
}

# Runs ACTION FROM TO for each topmost entry that is missing: both passes meet the same ones in the same order. Nothing on the disk is followed or looked into
# but directories that both have; a file where the image has a directory stays, and so does all that somebody changed.
over() { # ACTION FROM TO
  if [ -L "$3" ] || [ -e "$3" ]; then
    if [ -L "$2" ] && is_images_own "$2" && [ "$(readlink "$3")" != "$(readlink "$2")" ]; then "$1" "$2" "$3"; return; fi
    is_directory "$2" && is_directory "$3" || return 0
    for entry in "$2"/* "$2"/.[!.]* "$2"/..?*; do
      if [ -e "$entry" ] || [ -L "$entry" ]; then over "$1" "$entry" "$3/${entry##*/}" || return; fi
    done
  elif [ -e "$2" ] || [ -L "$2" ]; then
    "$1" "$2" "$3"
  else
    # A path that the image does not have at all.
    [ "$1" = copy_aside ] || mkdir -p "$3"
  fi
}

# What belongs to the image (the package list) is a link into its read-only part: no older copy of it on the disk may win.
is_images_own() { # LINK
  case $(readlink "$1") in */usr/lib/rackseed/* | usr/lib/rackseed/*) ;; *) return 1 ;; esac
}

copy_aside() { # FROM TO
  count=$((count + 1))
  cp -a "$1" "$aside/$count"
}

put_in_place() { # FROM TO
  count=$((count + 1))
  if [ -e "$2" ] || [ -L "$2" ]; then
    replaced=$STAGE/disk/.rackseed/replaced/$squashfs_digest${2#"$STAGE/disk/persist"}
    say "${2#"$STAGE/disk/persist"} belongs to the image; what the disk had is in ${replaced#"$STAGE/disk/"}"
    mkdir -p "${replaced%/*}" && rm -rf "$replaced" && mv "$2" "$replaced" || return
  fi
  mv "$aside/$count" "$2"
}
