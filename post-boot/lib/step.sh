# What every step starts with: `. ./lib/step.sh` (the agent runs steps in the repository's root). POSIX sh, run with `set -eu`.

CHANGED=unchanged

say() { printf '%s\n' "$*"; }

# The step failed; the last line of its output is what the boot shows.
fail() { say "$*"; exit 1; }

# Not now: the agent comes back.
later() { say "$*"; exit 75; }

# need NAME...: facts without which the step makes no sense.
need() {
  for _name in "$@"; do
    eval "_value=\${$_name-}"
    [ -n "$_value" ] || fail "fact $_name is missing: does the profile name what this step needs?"
  done
}

# Every step ends with this: what it says of itself is part of the contract.
finish() {
  printf '%s\n' "$CHANGED" >"$RACKSEED_RESULT"
  exit 0
}

# Seconds since the machine started. The clock jumps when the time server answers; this does not.
uptime_s() { read -r _up _ </proc/uptime && printf '%s\n' "${_up%.*}"; }

# write_file PATH MODE <content: writes only when the content differs, and whole or not at all.
write_file() {
  mkdir -p "${1%/*}"
  _new="$1.rackseed-new"
  cat >"$_new"
  chmod "$2" "$_new"
  if [ -f "$1" ] && cmp -s "$_new" "$1"; then
    rm -f "$_new"
  else
    mv -f "$_new" "$1"
    CHANGED=changed
    say "wrote $1"
  fi
}

sha256_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# install_artifact NAME PATH MODE: the artifact's bytes at PATH, checked against the sha256 that the boot set names. NAME in capitals.
install_artifact() {
  need "RACKSEED_ARTIFACT_$1_URL" "RACKSEED_ARTIFACT_$1_SHA256"
  eval "_url=\$RACKSEED_ARTIFACT_$1_URL _sum=\$RACKSEED_ARTIFACT_$1_SHA256"
  _sum=${_sum#sha256:}
  case $_url in /*) _url="${RACKSEED_URL%/}$_url" ;; esac
  if [ -f "$2" ] && [ "$(sha256_of "$2")" = "$_sum" ]; then return 0; fi
  mkdir -p "${2%/*}"
  # Named by what it shall become: a later try resumes it, another version never does.
  _part="${2%/*}/.${2##*/}.$(printf '%.12s' "$_sum").part"
  if ! [ -f "$_part" ] || [ "$(sha256_of "$_part")" != "$_sum" ]; then
    say "fetching $_url"
    curl --fail --silent --show-error --retry 4 --retry-connrefused --connect-timeout 10 --speed-limit 1024 --speed-time 30 \
      --continue-at - --output "$_part" "$_url" || case $? in
      22) fail "the daemon has nothing at $_url" ;;
      *) later "the artifact could not be fetched from $_url" ;;
      esac
    _got=$(sha256_of "$_part")
    if [ "$_got" != "$_sum" ]; then
      rm -f "$_part"
      fail "sha256 of $_url is $_got, but the boot set names $_sum"
    fi
  fi
  chmod "$3" "$_part"
  mv -f "$_part" "$2"
  CHANGED=changed
  say "installed $2"
}
