# Words that come from outside (kernel command line, DHCP, the daemon): taken apart and judged here, never evaluated.

is_word() { # TEXT: a name that is safe in a path, a file and a message
  case $1 in '' | [.-]* | *[!A-Za-z0-9._-]*) return 1 ;; esac
  [ "${#1}" -le 255 ]
}

is_number() { # TEXT: up to 15 digits and no leading zero, which the shell would read as octal
  case $1 in '' | *[!0-9]* | 0?*) return 1 ;; esac
  [ "${#1}" -le 15 ]
}

is_hex() { # TEXT LENGTH
  case $1 in *[!0-9a-f]*) return 1 ;; esac
  [ "${#1}" -eq "$2" ]
}

is_ip4() { # TEXT
  case $1 in '' | *[!0-9.]* | .* | *. | *..*) return 1 ;; esac
  split . "$1"
  [ "$parts" = 4 ] || return 1
  for octet in "$part1" "$part2" "$part3" "$part4"; do
    is_number "$octet" && [ "$octet" -le 255 ] || return 1
  done
}

# The fields of TEXT between SEPARATOR as $part1 to $part9, empty ones kept; $parts counts them.
split() { # SEPARATOR TEXT
  set -f
  old_ifs=$IFS
  IFS=$1
  set -- $2
  IFS=$old_ifs
  set +f
  parts=$# part1=$1 part2=$2 part3=$3 part4=$4 part5=$5 part6=$6 part7=$7 part8=$8 part9=$9
}

# `01-52-54-00-12-34-56` as PXELINUX and iPXE write it -> `52:54:00:12:34:56` in $mac_text; empty when it is no Ethernet address.
mac_of_bootif() { # TEXT
  mac_text=
  split - "$1"
  [ "$parts" = 7 ] && [ "$part1" = 01 ] || return 1
  for octet in "$part2" "$part3" "$part4" "$part5" "$part6" "$part7"; do
    case $octet in [0-9A-Fa-f][0-9A-Fa-f]) ;; *) return 1 ;; esac
  done
  mac_text=$(echo "$part2:$part3:$part4:$part5:$part6:$part7" | tr A-F a-f)
}

# `http://<address>[:<port>]` -> $url, $daemon_ip, $daemon_port. Names are refused: a static busybox cannot resolve them.
read_url() { # TEXT
  url= daemon_ip= daemon_port=80
  authority=${1#http://}
  authority=${authority%/}
  [ "http://$authority" = "${1%/}" ] || return 1
  case $authority in *:*) daemon_port=${authority#*:} ;; esac
  is_ip4 "${authority%%:*}" && is_number "$daemon_port" && [ "$daemon_port" -le 65535 ] || return 1
  daemon_ip=${authority%%:*}
  url=http://$authority
}

# Reads the kernel command line in FILE into $cmd_url (whole: URLs with commas between), $cmd_boot, $cmd_ip (the whole value), $cmd_bootif (a MAC),
# $cmd_tries, $cmd_wait, $cmd_margin (MiB), $cmd_bond, $cmd_vlan (whole), $cmd_state (`LABEL=x`, the disk with the cached images), $cmd_shell (1). As in the kernel, the last of two equal keys wins and `"` groups words; what is inside of quotes is never ours.
read_cmdline() { # FILE
  cmd_url= cmd_boot= cmd_ip= cmd_net= cmd_bootif= cmd_tries= cmd_wait= cmd_margin= cmd_bond= cmd_vlan= cmd_state= cmd_shell=
  line= quoted=
  read -r line <"$1"
  set -f
  set -- $line
  set +f
  for word; do
    was_quoted=$quoted
    rest=$word
    while :; do
      case $rest in *\"*) ;; *) break ;; esac
      rest=${rest#*\"}
      [ "$quoted" ] && quoted= || quoted=1
    done
    [ -z "$was_quoted" ] && [ "$rest" = "$word" ] || continue
    value=${word#*=}
    case $word in
      rackseed=*) cmd_url=$value ;;
      rackseed.boot=*) is_word "$value" && cmd_boot=$value ;;
      rackseed.net=*) cmd_net=$value ;;
      rackseed.tries=*) is_number "$value" && [ "$value" -ge 1 ] && cmd_tries=$value ;;
      rackseed.wait=*) is_number "$value" && cmd_wait=$value ;;
      rackseed.margin=*) is_number "$value" && cmd_margin=$value ;;
      rackseed.state=*) is_word "${value#LABEL=}" && [ "$value" != "${value#LABEL=}" ] && cmd_state=$value ;;
      rackseed.shell=1) cmd_shell=1 ;;
      ip=*) cmd_ip=$value ;;
      bond=*) cmd_bond=$value ;;
      vlan=*) cmd_vlan=$value ;;
      BOOTIF=*) mac_of_bootif "$value" && cmd_bootif=$mac_text ;;
    esac
  done
  if [ "$cmd_net" = dhcp ]; then
    cmd_url= cmd_boot= cmd_ip=
  fi
  # An address without the URL, or the kernel's word for "ask": DHCP knows both.
  case $cmd_url:$cmd_ip in :* | *:dhcp | *:on | *:any) cmd_ip= ;; esac
}
