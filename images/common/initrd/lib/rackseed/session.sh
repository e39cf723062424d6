# The session with the daemon: enrolment, the clock, and what config says is to be run as root.
RUN=${RUN:-/run/rackseed}

# What later parts and the booted system read of this stage. /run is a tmpfs that may be small: what does not fit is a failure that says so.
keep() { # NAME TEXT: one file of $RUN
  mkdir -p "$RUN" && printf '%s\n' "$2" >"$RUN/$1" && return
  why="$RUN/$1 could not be written: is ${RUN%/*} full? $(df -k "${RUN%/*}" | tail -n 1 | { read -r _ size used free _; echo "$size KiB, $free KiB free"; })"
  return 2
}

# Asks for the session once; a retry keeps the token it has. Sets $boot and $token.
enrol() {
  [ -z "$token" ] || return 0
  read_smbios
  request POST /enrol "mac $mac
${cmd_boot:+boot $cmd_boot
}$smbios"
  case $status in
    201) ;;
    409) why="this boot has a session already, and it is not ours: $reason"; return 2 ;;
    000) why="the daemon at $url does not answer: $reason"; return 1 ;;
    *) why="enrolment was refused with $status: $reason"; return 1 ;;
  esac
  answered boot; boot=$value
  answered token; token=$value
  if ! is_word "$boot" || ! is_hex "$token" 64; then
    token=
    why="the answer to enrol has no usable boot and token"
    return 1
  fi
  header date
  set_clock "$value"
  keep url "$url" && keep boot "$boot" && keep mac "$mac" || return
  umask 077
  keep token "$token"
  code=$?
  umask 022
  [ "$code" = 0 ] || return 2
  say "boot $boot has its session"
}

# A board whose battery is empty starts years ago, and certificates, logs and timers of the system would be wrong with it. Within a minute a clock is
# good enough until the system's own time service has its say. The time zone of HTTP is always GMT.
set_clock() { # TEXT: `Sun, 06 Nov 1994 08:49:37 GMT`
  case $1 in
    [A-Z][a-z][a-z],\ [0-3][0-9]\ [A-Z][a-z][a-z]\ 20[0-9][0-9]\ [0-2][0-9]:[0-5][0-9]:[0-6][0-9]\ GMT) ;;
    *) return 0 ;;
  esac
  form='%a, %d %b %Y %H:%M:%S GMT'
  theirs=$(date -u -D "$form" -d "$1" +%s) && ours=$(date -u +%s) && is_number "$theirs" || return 0
  off=$((theirs - ours))
  [ "${off#-}" -gt 60 ] || return 0
  before=$(date -u '+%Y-%m-%d %H:%M:%S')
  if date -u -D "$form" -s "$1" >/dev/null; then
    say "the clock said $before UTC, set to $(date -u '+%Y-%m-%d %H:%M:%S') UTC by the daemon's"
  else
    say "the clock says $before UTC and could not be set to the daemon's, $1"
  fi
}

# What to run as root. Asked again by each attempt: the daemon may have been repaired meanwhile.
config() {
  request GET "/boots/$boot/config"
  case $status in
    200) ;;
    000) why="the daemon at $url does not answer: $reason"; return 1 ;;
    401 | 404 | 410) why="the session is over ($status): $reason"; return 2 ;;
    *) why="config was refused with $status: $reason"; return 1 ;;
  esac
  read_config
}

# Reads the answer that lies in $ANSWER. Parts that want more of it set $config_fault to the key that is wrong.
read_config() {
  answered node; node=$value
  answered hostname; node_name=$value
  answered machine-id; machine_id=$value
  answered squashfs-digest; squashfs_digest=${value#sha256:}
  answered squashfs-size; squashfs_size=$value
  answered shell; shell=$value
  config_fault=
  is_word "$node" || config_fault=node
  is_word "$node_name" || config_fault=hostname
  is_hex "$machine_id" 32 || config_fault=machine-id
  is_hex "$squashfs_digest" 64 || config_fault=squashfs-digest
  is_number "$squashfs_size" || config_fault=squashfs-size
  answered squashfs-url
  absolute_url "$value" && squashfs_url=$absolute || config_fault=squashfs-url
  # Other places of the same bytes, in $squashfs_fallbacks, the first of them in $squashfs_fallback.
  squashfs_fallbacks= squashfs_fallback=
  answers squashfs-fallback
  while read -r line; do
    [ "$line" ] || continue
    absolute_url "$line" || { config_fault=squashfs-fallback; continue; }
    squashfs_fallback=${squashfs_fallback:-$absolute}
    squashfs_fallbacks="$squashfs_fallbacks $absolute"
  done <<LINES
$values
LINES
  disks_config
  integrity_config
  inhabit_config
  if [ "$config_fault" ]; then
    why="config has no usable $config_fault"
    return 2
  fi
  keep node "$node"
}
