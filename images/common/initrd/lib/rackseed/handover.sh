# What the image's systemd would start a process for, each, before anything else can start: its mounts of the kernel's own file systems and of tmpfs.
# Done here they cost a system call; systemd finds them mounted and goes on.
ROOT=${ROOT:-/root}

# As the image's units say. What cannot be mounted here is left to systemd, which says why.
api_mounts() {
  for unit in "$ROOT"/usr/lib/systemd/system/local-fs.target.wants/*.mount "$ROOT"/usr/lib/systemd/system/sysinit.target.wants/*.mount; do
    own=$ROOT/etc/systemd/system/${unit##*/}
    # Masked, replaced or changed by whoever made the image.
    if [ ! -r "$unit" ] || [ -L "$own" ] || [ -e "$own" ] || [ -e "$own.d" ]; then continue; fi
    what= where= type= options=
    while IFS='=' read -r key value; do
      case $key in What) what=$value ;; Where) where=$value ;; Type) type=$value ;; Options) options=$value ;; esac
    done <"$unit"
    # No device, and no module: no condition but that there is a place.
    case $type in hugetlbfs | mqueue | debugfs | tracefs | tmpfs) ;; *) continue ;; esac
    # What the stage moves over has its mounts here; the rest is the image's own.
    case $where in
      /dev/* | /run/*) at=$where; mkdir -p "$at" ;;
      /sys/*) at=$where ;;
      *) at=$ROOT$where ;;
    esac
    # A unit writes % twice.
    case $options in *%%*) options=${options%%\%\%*}%${options#*%%} ;; esac
    [ ! -d "$at" ] || [ -L "$at" ] || is_mounted "$at" || mount -t "$type" -o "$options" "$what" "$at"
  done
}
