# Images kept on the state disk under their digest: the next boot downloads nothing, and one without a daemon boots the last known good.
STAGE=${STAGE:-/run/initramfs}
# The config of this boot, until the disk is mounted. In the initrd's own memory, which is gone with it.
KEPT=${KEPT:-/tmp/config.kept}

# Called by disks_config. What may be kept of config: no secrets.
cache_config() {
  answered cache; cache_kind=${value:-none}
  case $cache_kind in none) ;; disk) [ "$state_label" ] || config_fault=cache ;; *) config_fault=cache ;; esac
  (umask 077; sed '1,/^\r*$/d' "$ANSWER" | grep -v '^ssh-host-key ' >"$KEPT")
}

# Sets $image_dir and $image_file: on the disk when images are kept there and it has room, else in RAM.
cached() {
  image_dir=$STAGE/image image_file=$STAGE/image/$squashfs_digest.squashfs
  if [ "$cache_kind" != disk ] || [ "$disk_gone" ]; then return 0; fi
  images=$STAGE/disk/.rackseed/images
  mkdir -p "$images" || { why="$images could not be written"; return 2; }
  drop_images
  file=$images/$squashfs_digest.squashfs
  have=0
  [ ! -e "$file" ] || have=$(stat -c %s "$file")
  if [ "$have" = "$squashfs_size" ]; then
    say "image $squashfs_digest is on the disk"
    touch "$file"
  else
    [ ! -e "$file.part" ] || have=$(stat -c %s "$file.part")
    need=$(((squashfs_size - have) / 1024 + 65536))
    free=$(df -kP "$images" | tail -n 1 | { read -r _ _ _ free _; echo "$free"; })
    if [ "$free" -lt "$need" ]; then
      say "WARNING: the image is not kept: the disk has $((free / 1024)) MiB free, $((need / 1024)) MiB are needed; it goes to RAM"
      return 0
    fi
  fi
  image_dir=$images image_file=$file
}

# The image of this boot and the last known good stay, and newer ones until there are two; parts of other downloads go.
drop_images() {
  good=
  [ ! -e "$STAGE/disk/.rackseed/last-good" ] || good=$(kept_digest "$STAGE/disk/.rackseed/last-good")
  count=1
  [ "${good:-$squashfs_digest}" = "$squashfs_digest" ] || count=2
  for name in $(ls -t "$images"); do
    case $name in
      "$squashfs_digest".* | "$good.squashfs") ;;
      *.squashfs)
        count=$((count + 1))
        [ "$count" -le 2 ] || { say "image ${name%.squashfs} leaves the disk"; rm -f "$images/$name"; }
        ;;
      *) rm -f "$images/$name" ;;
    esac
  done
}

kept_digest() { # FILE
  while read -r key value; do
    [ "$key" = squashfs-digest ] && echo "${value#sha256:}"
  done <"$1"
}

# Called when the image is mounted and the root made. This boot's config becomes the last known good when the agent has seen it ready.
keep_boot() {
  [ "$cache_kind" = disk ] && [ -z "$disk_gone" ] || return 0
  candidate=$STAGE/disk/.rackseed/candidate
  rm -f "$candidate"
  # A node that lives on the last known good has nothing new to keep; and what lies in RAM cannot be booted without a daemon.
  [ -z "$away" ] && [ "$image_dir" != "$STAGE/image" ] || return 0
  (umask 077; cat "$KEPT" >"$candidate.new") && sync -f "$candidate.new" && mv "$candidate.new" "$candidate" || say 'WARNING: this boot could not be kept for a time without a daemon'
}

# Small files by their digest (signed manifests), so that they are there without a daemon too. 1 = it is not.
kept_text() { # HEX FILE
  [ -e "$STAGE/disk/.rackseed/texts/$1" ] && cat "$STAGE/disk/.rackseed/texts/$1" >"$2"
}

keep_text() { # HEX FILE
  [ "$cache_kind" = disk ] && [ -z "$disk_gone" ] || return 0
  texts=$STAGE/disk/.rackseed/texts
  mkdir -p "$texts" && cat "$2" >"$texts/$1.part" && mv "$texts/$1.part" "$texts/$1"
  for name in $(ls -t "$texts" | tail -n +17); do rm -f "$texts/$name"; done
}

# For a boot that no daemon answers: reads the last known good of the disk that the command line names. Never formats, never asks for more than a label.
# Answers 0 when there is one; the steps that follow then work as ever. A daemon that answers and refuses is not away.
daemon_away() {
  [ "$cmd_state" ] && [ -z "$token" ] || return 1
  case $step:$status in network:* | *:000) ;; *) return 1 ;; esac
  told=$why
  state_label=${cmd_state#LABEL=} state_disk= disk_wipe= disk_missing=fail disk_format=ext4
  if ! disks; then why="$told; and $why"; return 1; fi
  good=$STAGE/disk/.rackseed/last-good
  if [ ! -s "$good" ]; then why="$told; and the disk has no last known good"; return 1; fi
  { printf 'HTTP/1.0 200 OK\r\n\r\n'; cat "$good"; } >"$ANSWER"
  read_config || { why="$told; and of the last known good: $why"; return 1; }
  # As if it were found for the first time: the kept config may say `wipe`, which was meant for the boot that it came from.
  disk_wipe= away=1
  say "daemon away ($told): booting the cached last known good of $node, squashfs $squashfs_digest"
  keep away "$told"
  # Its system asks for an address and for name servers itself, on whatever card there is.
  : >>"${RESOLV:-/etc/resolv.conf}"
  if [ -z "$mac" ]; then
    find_cards
    for card in $cards; do read -r mac <"$SYS/class/net/$card/address"; break; done
  fi
  lease_ip=${lease_ip:-127.0.1.1}
  return 0
}
