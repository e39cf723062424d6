# From a verified squashfs to a root that can be switched to.
STAGE=${STAGE:-/run/initramfs}
ROOT=${ROOT:-/root}

# Lower squashfs, upper tmpfs, OverlayFS over both. The bytes are the right ones by now, so what fails here fails again: no second attempt.
assemble() {
  mkdir -p "$ROOT" "$STAGE/upper" "$STAGE/lower"
  why='the squashfs could not be mounted'
  mount -t squashfs -o ro,loop "$STAGE/image/root.squashfs" "$STAGE/lower" || return 2
  say 'squashfs mounted'
  why='the overlay could not be mounted'
  mount -t tmpfs -o mode=0755 upper "$STAGE/upper" && mkdir -p "$STAGE/upper/files" "$STAGE/upper/work" || return 2
  mount -t overlay -o "lowerdir=$STAGE/lower,upperdir=$STAGE/upper/files,workdir=$STAGE/upper/work" overlay "$ROOT" || return 2
  why='the image has no /sbin/init'
  [ -e "$ROOT/sbin/init" ] || [ -L "$ROOT/sbin/init" ] || return 2
  for place in proc sys dev run; do
    why="the image has no /$place"
    [ -d "$ROOT/$place" ] || return 2
  done
}
