# Talking to the daemon. busybox wget hides an error's body and so its reason; `printf | nc` half-closes, and Node then drops its answer. Hence `nc -e`.
# The answer lies outside of /run: it may hold the token, and only the token's own file is to outlive this stage.
ANSWER=${ANSWER:-/tmp/answer}
LIB=${LIB:-/lib/rackseed}
CR=$(printf '\r')

# One request to the daemon at $daemon_ip. Sets $status (000 when there is no answer) and $reason (the answer's first line, or what went wrong).
request() { # METHOD PATH [BODY]
  status=000 reason= credentials=
  [ -z "$token" ] || credentials="Authorization: Bearer $token$CR
"
  : >"$ANSWER"
  method=$1 path=$2 body=$3 authority=${url#http://} credentials=$credentials answer=$ANSWER \
    timeout 30 nc -w 5 "$daemon_ip" "$daemon_port" -e "${BUSYBOX:-/bin/busybox}" sh "$LIB/talk" 2>"$ANSWER.err"
  read -r protocol code _ <"$ANSWER"
  case $protocol:$code in
    HTTP/*:[1-5][0-9][0-9]) status=$code; first_line ;;
    *) read -r reason <"$ANSWER.err"; reason=${reason:-no answer within 30 s} ;;
  esac
}

# The body starts after the headers' empty line.
first_line() {
  in_body=
  while read -r header || [ "$header" ]; do
    case $in_body$header in
      "$CR" | '') in_body=1 ;;
      1*) reason=$header; return ;;
    esac
  done <"$ANSWER"
}

# The value of KEY in the last answer's body, in $value; empty when it is not there.
answered() { # KEY
  value= in_body=
  while read -r key rest || [ "$key" ]; do
    if [ "$in_body" ]; then
      [ "$key" = "$1" ] && value=${rest%"$CR"} && return
      # Files come last, and each may be long: a shell reads them byte by byte.
      [ "$key" != files ] || return 1
    else
      case $key in "$CR" | '') in_body=1 ;; esac
    fi
  done <"$ANSWER"
  return 1
}

# All values of KEY in the last answer's body, in $values, one a line.
answers() { # KEY
  values= in_body=
  while read -r key rest || [ "$key" ]; do
    if [ "$in_body" ]; then
      [ "$key" = "$1" ] && values="$values${rest%"$CR"}
"
      [ "$key" != files ] || break
    else
      case $key in "$CR" | '') in_body=1 ;; esac
    fi
  done <"$ANSWER"
  [ "$values" ]
}

# The header NAME (lower case) of the last answer, in $value.
header() { # NAME
  value=
  while read -r key rest; do
    case $key in
      "$CR" | '') return 1 ;;
      *:) [ "$(echo "${key%:}" | tr A-Z a-z)" = "$1" ] && value=${rest%"$CR"} && return ;;
    esac
  done <"$ANSWER"
  return 1
}

# A URL that config gives, in $absolute: whole, or a path at the daemon. Refuses what could be more than a URL to a shell or to wget.
absolute_url() { # TEXT
  absolute=
  case $1 in
    *[!A-Za-z0-9._~:/?=\&%+-]*) return 1 ;;
    /*) absolute=$url$1 ;;
    http://?* | https://?*) absolute=$1 ;;
    *) return 1 ;;
  esac
}

# TEXT for a query, in $encoded, without a fork a character; what is neither plain nor listed becomes `?`, and 300 characters are enough.
# ash's substrings: with ${rest#?} and ${rest%...} each character would cost the square of what is left.
encode() { # TEXT
  encoded= at=0
  while [ "$at" -lt "${#1}" ] && [ "$at" -lt 300 ]; do
    char=${1:at:1}
    at=$((at + 1))
    case $char in
      [A-Za-z0-9._~:/,\(\)=-]) encoded=$encoded$char ;;
      ' ') encoded=$encoded%20 ;;
      '%') encoded=$encoded%25 ;;
      '&') encoded=$encoded%26 ;;
      '+') encoded=$encoded%2B ;;
      '"') encoded=$encoded%22 ;;
      "'") encoded=$encoded%27 ;;
      ';') encoded=$encoded%3B ;;
      *) encoded=$encoded%3F ;;
    esac
  done
}

# Tells the daemon how stage `root` stands: ok, running (an attempt failed, another follows) or failed (this boot is over).
report() { # STATE [MESSAGE]
  [ "$token" ] || return 1
  encode "$2"
  clock
  request POST "/boots/$boot/report?stage=root&state=$1&ms=$ms${encoded:+&message=$encoded}"
  [ "$status" = 204 ] || say "the report was not taken: $status $reason"
  [ "$status" = 204 ]
}

# The one report that should not be lost; but a node that can run is not stopped for it.
report_root() {
  [ "$token" ] || return 0
  for try in 1 2 3; do
    report ok && return
    sleep "$try"
  done
}
