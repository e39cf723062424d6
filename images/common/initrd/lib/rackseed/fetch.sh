# The squashfs, from its digest to bytes that are verified. The places lie under /run/initramfs, which systemd leaves alone at shutdown.
STAGE=${STAGE:-/run/initramfs}
WGET_ERR=${WGET_ERR:-/tmp/wget.err}
# A connection that brings nothing for 20 s is dropped and resumed. Not with busybox 1.35 of Debian 12: its static wget crashes on -T (measured).
STALL=${STALL--T 20}

# The squashfs lies in RAM for as long as the node runs, so what must stay free for the system itself is asked for before the download.
memory() {
  while read -r key available _; do
    [ "$key" = MemAvailable: ] && break
  done <"${MEMINFO:-/proc/meminfo}"
  have_bytes
  need=$(((squashfs_size - have) / 1048576 + 1))
  margin=${cmd_margin:-192}
  available=$((available / 1024))
  [ "$available" -ge $((need + margin)) ] && return 0
  why="not enough memory: $available MiB are available, the squashfs takes $need MiB and $margin MiB must stay free"
  return 2
}

have_bytes() {
  have=0
  [ ! -e "$STAGE/image/root.squashfs" ] || have=$(stat -c %s "$STAGE/image/root.squashfs")
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

# Downloads what is missing. Breaks are resumed for as long as each try brings something; six in a row that bring nothing end the attempt.
# Hashing comes after: `wget | tee | sha256sum` took 34-41 s for 96 MiB where one after the other took 7.3 s (measured, TCG on a busy host).
download() {
  if [ ! -d "$STAGE/image" ]; then
    mkdir -p "$STAGE/image"
    mount -t tmpfs -o "size=$((squashfs_size / 1024 + 1024))k,mode=0755" image "$STAGE/image"
  fi
  idle=0
  have_bytes
  while [ "$have" -lt "$squashfs_size" ]; do
    before=$have
    # busybox checks no certificate and complains of that first; the digest is what is checked.
    case $squashfs_url in https:*) unchecked=--no-check-certificate ;; *) unchecked= ;; esac
    wget -q $STALL $unchecked -c -O "$STAGE/image/root.squashfs" "$squashfs_url" 2>"$WGET_ERR"
    complaint=
    read -r complaint <"$WGET_ERR"
    have_bytes
    [ "$have" -lt "$squashfs_size" ] || break
    if [ "$have" = "$before" ] && [ "${squashfs_fallback:-$squashfs_url}" != "$squashfs_url" ]; then
      say "nothing comes from $squashfs_url (${complaint:-short answer}), asking the daemon itself"
      squashfs_url=$squashfs_fallback
      continue
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

# Downloads and verifies, before anything is mounted. Bytes that are wrong are fetched once more in full, then given up.
fetch() {
  for round in first second; do
    download || return
    found=$(sha256sum "$STAGE/image/root.squashfs")
    found=${found%% *}
    if [ "$found" = "$squashfs_digest" ]; then
      say "squashfs of $squashfs_size bytes is here and verified"
      return 0
    fi
    why="squashfs has sha256 $found, expected $squashfs_digest"
    say "$why ($round download)"
    squashfs_url=${squashfs_fallback:-$squashfs_url}
    rm -f "$STAGE/image/root.squashfs"
  done
  return 2
}
