# The state disk: found by its label, made where the profile says so and nothing is there, mounted at $STAGE/disk. Never a guess.
STAGE=${STAGE:-/run/initramfs}
SYS=${SYS:-/sys}
DEV=${DEV:-/dev}
MKE2FS=${MKE2FS:-/usr/sbin/mke2fs}
MKXFS=${MKXFS:-/usr/sbin/mkfs.xfs}
DISK_LOG=${DISK_LOG:-/tmp/disk.log}
MODPROBE=${MODPROBE:-modprobe}

# The lines of config that disks.sh, root.sh and cache.sh read.
disks_config() {
  answered root-state
  root_state=${value:-none} state_label=
  case $root_state in
    none) ;;
    LABEL=*) state_label=${root_state#LABEL=}; is_word "$state_label" && [ "${#state_label}" -le 16 ] || config_fault=root-state ;;
    *) config_fault=root-state ;;
  esac
  answered disk; state_disk=$value
  case $state_disk in *[!A-Za-z0-9:._,-]*) config_fault=disk ;; esac
  answered disk-format; disk_format=${value:-ext4}
  case $disk_format in ext4 | xfs) ;; *) config_fault=disk-format ;; esac
  answered disk-missing; disk_missing=${value:-fail}
  case $disk_missing in fail | ephemeral) ;; *) config_fault=disk-missing ;; esac
  answered disk-wipe; disk_wipe=$value
  case $disk_wipe in '' | no) disk_wipe= ;; yes) [ "$state_disk" ] && [ "$state_label" ] || config_fault=disk-wipe ;; *) config_fault=disk-wipe ;; esac
  root_config
  cache_config
}

# Answers 2 with the reason when the disk is not as the profile wants it; what is on a disk is never touched unless the profile says `wipe`.
disks() {
  disk_gone=
  if [ -z "$state_label" ]; then keep state none; return; fi
  # Another attempt finds it mounted.
  if is_mounted "$STAGE/disk"; then return 0; fi
  looks=0
  while :; do
    looks=$((looks + 1))
    look_at_disks
    set -- $labelled
    if [ "$#" -gt 1 ]; then
      why="$# file systems have the label $state_label: $*; one of them must go, or get another label"
      return 2
    fi
    if [ "$disk_wipe" ] && [ "$target" ]; then
      if [ "$1" ] && [ "$1" != "$target" ] && [ ! -e "$SYS/class/block/$target/$1" ]; then
        why="$target is to be wiped, but the label $state_label is on $1: take the disk out, or its label away"
        return 2
      fi
      format_disk "$target" 'the profile says wipe' && mount_disk "$target"
      return
    fi
    if [ "$1" ] && [ -z "$disk_wipe" ]; then mount_disk "$1"; return; fi
    # Partitions appear just after their disk, so an empty one is looked at twice.
    if [ "$target" ] && [ "$looks" -ge 2 ]; then
      why_not_empty "$target"
      if [ "$full" ]; then
        why="$target ($state_disk) has no file system with the label $state_label, and is not empty: $full; nothing was written to it, root.wipe in the profile would format it"
        return 2
      fi
      format_disk "$target" 'it is empty' && mount_disk "$target"
      return
    fi
    [ "$looks" -lt "${DISK_LOOKS:-20}" ] || break
    sleep 0.5
    load_modules
  done
  why="the disk LABEL=$state_label${state_disk:+ ($state_disk)} is not there; disks:${listed:- none}"
  [ "$disk_missing" = ephemeral ] || return 2
  disk_gone=1
  say "WARNING: $why"
  say 'WARNING: nothing that this boot writes will be kept (root.onMissing is ephemeral)'
  report running "ephemeral: $why"
  keep state "none (LABEL=$state_label is missing)"
}

is_mounted() { # PLACE
  while read -r _ place _; do
    [ "$place" != "$1" ] || return 0
  done <"${MOUNTS:-/proc/self/mounts}"
  return 1
}

# All block devices: $labelled = those with the label, $target = the one at the path $state_disk, $listed = what there is, for people.
look_at_disks() {
  labelled= target= listed=
  for path in "$SYS"/class/block/*; do
    name=${path##*/}
    # Not what stands on other devices: it has their labels.
    case $name in loop* | ram* | zram* | dm-* | md* | sr* | fd* | nbd*) continue ;; esac
    read -r sectors <"$path/size" && [ "$sectors" -gt 0 ] || continue
    read_label "$DEV/$name"
    [ "$label" != "$state_label" ] || labelled="$labelled $name"
    paths_of "$path"
    for by_path in $by_paths; do
      [ "$by_path" != "$state_disk" ] || target=$name
    done
    listed="$listed $name ($((sectors / 2048)) MiB${by_paths:+, ${by_paths%% *}}${fs_type:+, $fs_type}${label:+ $label})"
  done
}

# $fs_type and $label of the file system on DEVICE, both empty when it is neither ext2-4 nor xfs. busybox' blkid is not in Debian's static one, and its
# findfs takes the first of two.
read_label() { # DEVICE
  fs_type= label= text=
  bytes=$(hexdump -v -n 1160 -e '1/1 "%02x"' "$1")
  case $bytes in
    58465342*) fs_type=xfs text=${bytes:216:24} ;;
    *) [ "${bytes:2160:4}" = 53ef ] && fs_type=ext4 text=${bytes:2288:32} ;;
  esac
  while [ "$text" ] && [ "${text:0:2}" != 00 ]; do
    label="$label\\x${text:0:2}"
    text=${text:2}
  done
  label=$(printf "$label")
  is_word "$label" || label=${label:+unprintable}
}

# The names that udev would give a disk or partition below /dev/disk/by-path, in $by_paths; empty for a bus that is not known here.
paths_of() { # SYS/class/block/NAME
  by_paths=
  device=$(readlink -f "$1")
  suffix= base= usb= end= ata= ata_id= above= at=
  if [ -e "$1/partition" ]; then
    read -r number <"$1/partition"
    suffix=-part$number
    device=${device%/*}
  fi
  old_ifs=$IFS
  IFS=/
  set -f
  set -- $device
  set +f
  IFS=$old_ifs
  for word; do
    [ "$word" ] || continue
    above=$at at=$at/$word
    case $word in
      [0-9a-f][0-9a-f][0-9a-f][0-9a-f]:[0-9a-f][0-9a-f]:[0-9a-f][0-9a-f].[0-9a-f]) base=pci-$word ;;
      *.virtio_mmio) base=platform-$word ;;
      [0-9]*-[0-9]*:[0-9]*.[0-9]*) usb=-usb-0:${word#*-} ;;
      ata[0-9]*) read -r ata <"$at/ata_port/$word/port_no" ;;
      host[0-9]*) hosts=$above ;;
      [0-9]*:[0-9]*:[0-9]*:[0-9]*)
        end=-scsi-$word ata_id=${word#*:*:}
        first=${word%%:*}
        # Hosts are counted through the machine in the order that they came; the path counts those of this controller.
        for host in "$hosts"/host[0-9]*; do
          [ "${host##*/host}" -ge "$first" ] || first=${host##*/host}
        done
        end=-scsi-$((${word%%:*} - first)):${word#*:}
        ;;
      nvme[0-9]*n[0-9]*) read -r number <"$device/nsid" || number=${word##*n}; end=-nvme-$number ;;
    esac
  done
  [ "$base" ] || return 0
  if [ "$ata" ]; then
    by_paths="$base-ata-$ata$suffix $base-ata-$ata.${ata_id%%:*}$suffix"
  else
    by_paths=$base$usb$end$suffix
  fi
}

# Why NAME is not empty, in $full: whoever reads a zero in each byte of both ends finds no file system, table, RAID, volume or key there.
why_not_empty() { # NAME
  full=
  for path in "$SYS/class/block/$1"/*/partition; do
    [ ! -e "$path" ] || { path=${path%/partition}; full="it has the partition ${path##*/}"; return; }
  done
  for path in "$SYS/class/block/$1"/holders/*; do
    [ ! -e "$path" ] || { full="${path##*/} stands on it"; return; }
  done
  read -r sectors <"$SYS/class/block/$1/size"
  if [ "$sectors" -lt 32768 ]; then full='it has less than 16 MiB'; return; fi
  is_zero "$DEV/$1" 0 && is_zero "$DEV/$1" $((sectors - 2048)) && return
  read_label "$DEV/$1"
  full="there is ${fs_type:-something}${label:+ $label} on it"
}

is_zero() { # DEVICE SECTOR: the MiB from there on
  dd "if=$1" bs=512 "skip=$2" count=2048 2>/dev/null | cmp -s -n 1048576 - /dev/zero
}

# The program's own last words are in $why when it fails.
format_disk() { # NAME REASON
  program=$MKE2FS
  set -- "$1" "$2" -q -F -t ext4 -L "$state_label" "$DEV/$1"
  [ "$disk_format" = ext4 ] || { program=$MKXFS; set -- "$1" "$2" -q -f -L "$state_label" "$DEV/$1"; }
  name=$1 reason=$2
  shift 2
  if [ ! -x "$program" ]; then
    why="$name cannot be formatted with $disk_format: the initrd has no ${program##*/} ($([ "$disk_format" = ext4 ] && echo e2fsprogs || echo xfsprogs) in the image's packages)"
    return 2
  fi
  say "formatting $name with $disk_format, label $state_label: $reason"
  if [ "$disk_wipe" ]; then
    # Both ends, so that no old partition table or RAID comes back to life.
    read -r sectors <"$SYS/class/block/$name/size"
    dd if=/dev/zero "of=$DEV/$name" bs=512 count=2048 conv=notrunc 2>/dev/null
    dd if=/dev/zero "of=$DEV/$name" bs=512 seek=$((sectors > 2048 ? sectors - 2048 : 0)) count=2048 conv=notrunc 2>/dev/null
  fi
  "$program" "$@" >"$DISK_LOG" 2>&1 && sync && return
  why="$name could not be formatted with $disk_format: $(tail -n 1 "$DISK_LOG")"
  return 2
}

# The file system's journal is replayed by the mount; what that cannot mend is for a person with the rescue image, never for mkfs.
mount_disk() { # NAME
  read_label "$DEV/$1"
  options=noatime
  [ "$fs_type" = xfs ] || options=noatime,errors=remount-ro
  $MODPROBE -q "${fs_type:-ext4}"
  mkdir -p "$STAGE/disk"
  if ! mount -t "${fs_type:-ext4}" -o "$options" "$DEV/$1" "$STAGE/disk" 2>"$DISK_LOG"; then
    why="the file system $state_label on $1 could not be mounted: $(tail -n 1 "$DISK_LOG"); the rescue image has fsck and xfs_repair"
    return 2
  fi
  if ! (umask 077; mkdir -p "$STAGE/disk/.rackseed" && echo >"$STAGE/disk/.rackseed/written") 2>"$DISK_LOG"; then
    why="the file system $state_label on $1 cannot be written: $(tail -n 1 "$DISK_LOG")"
    umount "$STAGE/disk"
    return 2
  fi
  say "state is on $1, $fs_type $state_label"
  keep state "disk LABEL=$state_label /dev/$1 $fs_type"
}
