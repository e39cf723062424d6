# The squashfs, from its digest to a file that is whole. The places lie under /run/initramfs, which systemd leaves alone at shutdown.
STAGE=${STAGE:-/run/initramfs}
WGET_ERR=${WGET_ERR:-/tmp/wget.err}
# A connection that brings nothing for 20 s is dropped and resumed. Not with busybox 1.35 of Debian 12: its static wget crashes on -T (measured).
STALL=${STALL--T 20}

# Where the squashfs lies, in $image_file: in a tmpfs of its own, or where the cache (cache.sh) has put $image_dir. Until it is whole, it is called .part.
image_place() {
  image_dir=${image_dir:-$STAGE/image}
  image_file=$image_dir/$squashfs_digest.squashfs
}

# A squashfs in RAM lies there for as long as the node runs, so what must stay free for the system itself is asked for before the download.
memory() {
  while read -r key available _; do
    [ "$key" = MemAvailable: ] && break
  done <"${MEMINFO:-/proc/meminfo}"
  image_place
  have_bytes
  need=0
  [ "$image_dir" != "$STAGE/image" ] || need=$(((squashfs_size - have) / 1048576 + 1))
  margin=${cmd_margin:-192}
  available=$((available / 1024))
  [ "$available" -ge $((need + margin)) ] && return 0
  why="not enough memory: $available MiB are available, the squashfs takes $need MiB and $margin MiB must stay free"
  return 2
}

have_bytes() {
  have=0
  for file in "$image_file.part" "$image_file"; do
    [ ! -e "$file" ] || have=$(stat -c %s "$file")
  done
}

# A daemon that serves as many images as it may says 503 to the others, and where they stand: `place 12, about 40 s, again in 17 s` is its reason
# phrase, all of an error that wget shows. Sleeps as long as it is told, within bounds. A queue may be hours long, and a failed boot would only start at its
# end again, so who has a place waits for its turn; other servers' 503 say no place and no time, and are waited for half an hour in all.
await_turn() { # COMPLAINT
  words=${1#*' 503 '} again=${1##*'again in '}
  again=${again%% *} words=${words%', again in '*}
  is_number "$again" && [ "$again" -ge 1 ] || again=10
  [ "$again" -le 60 ] || again=60
  case $words in
    'place '[1-9]*) ;;
    *)
      why="the server was busy for $((waited / 60)) min"
      [ "$waited" -lt "${LONGEST_WAIT:-1800}" ] || return 2
      waited=$((waited + again)) words='the server is busy'
      ;;
  esac
  say "waiting: $words"
  sleep "$again"
}
waited=0

# The next of the places that config names, in $squashfs_url; fails when there is no other.
next_place() {
  set -f
  set -- $squashfs_fallbacks
  set +f
  while [ "$#" -gt 0 ] && [ "$1" = "$squashfs_url" ]; do shift; done
  [ "$#" -gt 0 ] || return 1
  squashfs_url=$1
  shift
  squashfs_fallbacks=$*
}

# Downloads what is missing. Breaks are resumed for as long as each try brings something; six in a row that bring nothing end the attempt.
# Hashing comes after: `wget | tee | sha256sum` took 34-41 s for 96 MiB where one after the other took 7.3 s (measured, TCG on a busy host).
download() {
  if [ ! -d "$image_dir" ]; then
    mkdir -p "$image_dir"
    [ "$image_dir" != "$STAGE/image" ] || mount -t tmpfs -o "size=$((squashfs_size / 1024 + 1024))k,mode=0755" image "$image_dir"
  fi
  idle=0
  have_bytes
  while [ "$have" -lt "$squashfs_size" ]; do
    before=$have
    # busybox checks no certificate and complains of that first; the digest is what is checked.
    case $squashfs_url in https:*) unchecked=--no-check-certificate ;; *) unchecked= ;; esac
    wget -q $STALL $unchecked -c -O "$image_file.part" "$squashfs_url" 2>"$WGET_ERR"
    complaint=
    read -r complaint <"$WGET_ERR"
    have_bytes
    [ "$have" -lt "$squashfs_size" ] || break
    if [ "$have" = "$before" ]; then
      place=$squashfs_url
      if next_place; then
        case $squashfs_url in "$url"/*) next='the daemon itself' ;; *) next=$squashfs_url ;; esac
        say "nothing comes from $place (${complaint:-short answer}), asking $next"
        continue
      fi
    fi
    why="the squashfs could not be fetched, $have of $squashfs_size bytes came: ${complaint:-the answer was short}"
    case $complaint in
      *'HTTP/1.'[01]' 503'*) await_turn "$complaint" && continue; return 2 ;;
      *'HTTP/1.'[01]' 40'[0-9]* | *'HTTP/1.'[01]' 410'*) return 1 ;;
    esac
    if [ "$have" -gt "$before" ]; then idle=0; else idle=$((idle + 1)); fi
    [ "$idle" -lt 6 ] || return 1
    say "download broke at $have of $squashfs_size bytes (${complaint:-short answer}), resuming"
    pause "$idle"
  done
  return 0
}

# Is FILE the squashfs, as far as it is known before it is mounted? Where the kernel checks each block as it is read, only the size is asked for; otherwise all of it is read.
is_whole() { # FILE
  size=$(stat -c %s "$1")
  why="squashfs has $size bytes, expected $squashfs_size"
  [ "$size" = "$squashfs_size" ] || return 1
  if lazily; then
    verified='here, its blocks are verified as they are read'
    return 0
  fi
  found=$(sha256sum "$1")
  found=${found%% *}
  why="squashfs has sha256 $found, expected $squashfs_digest"
  verified='here and verified'
  [ "$found" = "$squashfs_digest" ]
}

# Leaves the squashfs in $image_file. Bytes that are wrong are fetched once more in full, from another place if there is one, then given up.
fetch() {
  image_place
  if [ -e "$image_file" ]; then
    if is_whole "$image_file"; then
      say "squashfs of $squashfs_size bytes is $verified"
      return 0
    fi
    say "$why (in $image_dir)"
    image_is_bad
  fi
  for round in first second; do
    download || return
    if is_whole "$image_file.part"; then
      # On a disk: never a whole name for bytes that a power cut may still take away.
      [ "$image_dir" = "$STAGE/image" ] || sync
      mv "$image_file.part" "$image_file"
      say "squashfs of $squashfs_size bytes is $verified"
      return 0
    fi
    say "$why ($round download)"
    next_place
    image_is_bad
  done
  return 2
}
