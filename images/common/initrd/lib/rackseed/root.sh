# From the mounted squashfs to a root that can be switched to.
STAGE=${STAGE:-/run/initramfs}
ROOT=${ROOT:-/root}

# Called by disks_config: how much the overlay's tmpfs may take, as tmpfs writes it.
root_config() {
  answered root-size
  root_size=${value:-50%}
  case ${root_size%[%kmg]} in '' | 0* | *[!0-9]*) config_fault=root-size ;; esac
  case ${root_size%\%} in [0-9] | [0-9][0-9] | 100 | *[kmg]) ;; *) config_fault=root-size ;; esac
}

# OverlayFS: the squashfs below, a tmpfs of limited size above; what the layout calls readonly is the squashfs's own directory, so that writing there is
# `Read-only file system` and not a file that the next boot forgets. What fails here fails again: no second attempt.
assemble() {
  mkdir -p "$ROOT" "$STAGE/upper"
  why='the overlay could not be mounted'
  mount -t tmpfs -o "size=$root_size,mode=0755" upper "$STAGE/upper" && mkdir -p "$STAGE/upper/files" "$STAGE/upper/work" || return 2
  mount -t overlay -o "lowerdir=$STAGE/lower,upperdir=$STAGE/upper/files,workdir=$STAGE/upper/work" overlay "$ROOT" || return 2
  why='the image has no /sbin/init'
  [ -e "$ROOT/sbin/init" ] || [ -L "$ROOT/sbin/init" ] || return 2
  for place in proc sys dev run; do
    why="the image has no /$place"
    [ -d "$ROOT/$place" ] || return 2
  done
  each_of_layout readonly read_only
}

read_only() { # PATH
  why="the image has no directory $1, which its layout calls readonly"
  is_directory "$STAGE/lower$1" || return 2
  why="$1 could not be made read-only"
  mount -o bind "$STAGE/lower$1" "$ROOT$1" && mount -o remount,bind,ro "$ROOT$1" || return 2
}

# Runs FUNCTION with each path that the image's layout has under WORD. An image without a layout is one overlay, nothing of it kept.
each_of_layout() { # WORD FUNCTION
  [ -r "$STAGE/lower/etc/rackseed/layout" ] || return 0
  while read -r word path; do
    [ "$word" = "$1" ] || continue
    why="the image's layout has a path that is none: $word $path"
    case $path/ in / | [!/]* | *//* | */./* | */../* | *[!A-Za-z0-9._/@+-]*) return 2 ;; esac
    "$2" "$path" || return
  done <"$STAGE/lower/etc/rackseed/layout"
}

is_directory() { # PATH: itself, not a link to one
  [ -d "$1" ] && [ ! -L "$1" ]
}
