# /config: the files that configure this machine, of the daemon's config and of a disk in the machine itself that is labelled RACKSEED-CONFIG.
STICK=${STICK:-/run/rackseed/stick}
# What config brought for the root, until there is one. Outside of /run: the host key is among it.
SEED=${SEED:-/tmp/seed}

# Mounts that disk on $STICK, for whoever reads it before there is a root (keys of images, integrity.sh). None is none, and is not waited for: what it takes
# until the network is up is what a USB disk needs. Labels of vfat have 11 characters.
config_stick() {
  [ -z "$stick_device" ] || return 0
  for label in RACKSEED-CONFIG RACKSEEDCFG; do
    stick_device=$(findfs "LABEL=$label" 2>/dev/null) && break
    stick_device=
  done
  [ "$stick_device" ] || return 0
  modprobe -aq vfat nls_cp437 nls_ascii nls_iso8859_1 iso9660 ext4
  mkdir -p "$STICK"
  # Without the journal's replay, which would write.
  for kind in vfat,fmask=0133,dmask=0022 iso9660 ext4,noload; do
    options=${kind#"${kind%%,*}"}
    mount -t "${kind%%,*}" -o "ro,nosuid,nodev$options" "$stick_device" "$STICK" 2>/dev/null && kind= && break
  done
  [ -z "$kind" ] || {
    why="$stick_device is labelled $label, and could be mounted neither as vfat nor as iso9660 nor as ext4"
    stick_device=
    return 2
  }
  say "$stick_device is the disk $label: its files are in /config"
}

# A path below /config that needs no quoting anywhere and leads nowhere else.
is_config_path() { # TEXT
  case /$1/ in *[!A-Za-z0-9._@+:/-]* | *//* | */./* | */../*) return 1 ;; esac
  [ "${#1}" -le 200 ]
}

# One `file` line of config, into $SEED; $path is the path that it names.
take_file() { # `MODE PATH BASE64`
  mode=${1%% *} path=${1#* } data=
  case $path in *' '*) data=${path#* } path=${path%% *} ;; esac
  case $mode in 0[0-7][0-7][0-7]) ;; *) return 1 ;; esac
  is_config_path "$path" && make_parents "$SEED/config" "$path" || return 1
  printf %s "$data" | base64 -d >"$SEED/config/$path" && chmod "$mode" "$SEED/config/$path"
}

# The directories of PATH below DIR. One that is a link could lead anywhere, onto the initrd's own files too.
make_parents() { # DIR PATH
  at=$1 left=$2
  while :; do
    case $left in */*) ;; *) return 0 ;; esac
    at=$at/${left%%/*} left=${left#*/}
    [ ! -L "$at" ] || return 1
    [ -d "$at" ] || mkdir -m 0755 "$at" || return 1
  done
}

# A file that is there keeps its owner and mode; a link in its place goes.
put_file() { # FILE DIR PATH
  make_parents "$2" "$3" && [ ! -d "$2/$3" ] || return 1
  [ ! -L "$2/$3" ] || rm "$2/$3" || return 1
  cp "$1" "$2/$3" && chmod ug-s "$2/$3"
}

# The files of FROM over those of TO, regular ones under plain names only.
copy_files() { # FROM TO [PATH-TO-LEAVE-OUT...]
  from=$1 to=$2
  shift 2
  (cd "$from" && find . -type f) >"$SEED/list"
  while IFS= read -r file; do
    file=${file#./}
    is_config_path "$file" && [ -f "$from/$file" ] || {
      say "/config: left out a file whose name has other characters than A-Z a-z 0-9 . _ @ + : -"
      continue
    }
    case " $* " in *" $file "*) say "/config: etc/$file is left out: the daemon says who this machine is"; continue ;; esac
    put_file "$from/$file" "$to" "$file" || {
      why="/config: $file cannot be put into ${to#"$ROOT"}: a directory or link is in its way, or there is more than ${CONFIG_SIZE:=16m}"
      return 1
    }
  done <"$SEED/list"
}

# Where the image wants it, in $config_place.
find_config_place() {
  config_place=/config
  [ ! -r "$ROOT/etc/rackseed/layout" ] || while read -r key value; do
    [ "$key" = config ] && config_place=$value
  done <"$ROOT/etc/rackseed/layout"
  why="the image's layout has no usable place for /config: $config_place"
  case $config_place in /*) is_config_path "${config_place#/}" ;; *) false ;; esac
}

# Fills /config, lays its etc over /etc, and makes it read-only: it is read once, at boot. Hostname and machine id stay the daemon's.
settle_config() {
  find_config_place && make_parents "$ROOT" "${config_place#/}/." || return
  why="/config could not be mounted"
  mount -t tmpfs -o "size=${CONFIG_SIZE:=16m},mode=0755,nosuid,nodev" config "$ROOT$config_place" || return
  copy_files "$SEED/config" "$ROOT$config_place" || return
  if [ "$stick_device" ]; then
    copy_files "$STICK" "$ROOT$config_place" || return
    umount "$STICK"
  fi
  # An image of another maker may bring host keys, the same to each of its machines.
  rm -f "$ROOT"/etc/ssh/ssh_host_*
  [ ! -d "$ROOT$config_place/etc" ] || copy_files "$ROOT$config_place/etc" "$ROOT/etc" hostname machine-id || return
  why="/config could not be made read-only"
  mount -o remount,ro "$ROOT$config_place"
}
