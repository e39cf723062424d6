# Drivers, cards and the address: as the command line tells, else by our own DHCP. Works with several cards, of which one leads to the daemon.
SYS=${SYS:-/sys}
LEASE=${LEASE:-/tmp/lease}

# One modprobe for all: what the root needs by name, and what the hardware says of itself. A bus driver makes new devices appear, so again until nothing new does.
load_modules() {
  names= loaded=
  while read -r name; do names="$names $name"; done <"$LIB/modules"
  while :; do
    wanted=$names
    for file in "$SYS"/bus/*/devices/*/modalias; do
      read -r name <"$file" && wanted="$wanted $name"
    done
    [ "$wanted" != "$loaded" ] || return 0
    set -f
    modprobe -abq $wanted
    set +f
    loaded=$wanted
  done
}

# The Ethernet cards in $cards, in the kernel's order; only the one that the loader booted from when BOOTIF names it. Waits up to 10 s for drivers.
find_cards() {
  polls=0
  while :; do
    cards= present=
    for path in "$SYS"/class/net/*; do
      [ -e "$path/device" ] && read -r kind <"$path/type" && [ "$kind" = 1 ] || continue
      read -r address <"$path/address"
      present="$present ${path##*/}=$address"
      [ "${cmd_bootif:-$address}" = "$address" ] && cards="$cards ${path##*/}"
    done
    [ -z "$cards" ] || return 0
    [ "$polls" -lt 20 ] || break
    polls=$((polls + 1))
    sleep 0.5
    load_modules
  done
  why="no Ethernet card${cmd_bootif:+ with the address $cmd_bootif (BOOTIF)} has a driver here; cards:${present:- none}"
  return 1
}

# Ups all of $cards and keeps in $linked those that have a link: all of them, or those of the first 2 s, or the first of 60 s. A switch that negotiates
# slowly, or a port that a spanning tree holds back, needs 30 s and more.
find_links() {
  for card in $cards; do ip link set "$card" up; done
  polls=0
  while :; do
    linked= missing=
    for card in $cards; do
      link=0
      read -r link <"$SYS/class/net/$card/carrier"
      [ "$link" = 1 ] && linked="$linked $card" || missing="$missing $card"
    done
    [ -z "$missing" ] && break
    [ "$linked" ] && [ "$polls" -ge 10 ] && break
    if [ "$polls" -ge 300 ]; then
      why="no link on$missing within 60 s: is the cable in, is the switch's port up?"
      return 1
    fi
    polls=$((polls + 1))
    [ $((polls % 50)) != 0 ] || say "waiting for a link on$missing, $((polls / 5)) s"
    sleep 0.2
  done
  [ "$polls" -lt 50 ] || say "link on$linked after $((polls / 5)) s"
}

# `ip=<address>:<server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>:<dns0>:<dns1>`, the kernel's nfsroot.txt. Fails without a netmask:
# iPXE 2.0 started by EDK2 takes the boot server's answer for its lease, and that has none (measured).
address_of_cmdline() {
  split : "$cmd_ip"
  lease_ip=$part1 lease_gateway=$part3 lease_netmask=$part4 lease_dns="$part8 $part9" lease_url=
  [ "$lease_netmask" ]
}

# One lease for the card, in the lease_ variables. The client id is the one that ROMs use, so that it is the same lease.
address_by_dhcp() { # CARD
  rm -f "$LEASE"
  read -r address <"$SYS/class/net/$1/address"
  split : "$address"
  udhcpc -f -q -n -i "$1" -t 4 -T 2 -s "$LIB/lease" -V rackseed-initrd -C -x "0x3d:01$part1$part2$part3$part4$part5$part6" \
    -O subnet -O router -O dns -O bootfile 2>"$LEASE.log"
  lease_ip= lease_netmask= lease_gateway= lease_dns= lease_url=
  [ -e "$LEASE" ] || return 1
  while read -r key value; do
    case $key in
      ip) lease_ip=$value ;;
      netmask) lease_netmask=$value ;;
      gateway) lease_gateway=$value ;;
      dns) lease_dns=$value ;;
      url) lease_url=$value ;;
    esac
  done <"$LEASE"
}

# Gives CARD the address of the lease_ variables; says in $fault what is wrong with them.
use_address() { # CARD
  fault="the address '$lease_ip' or netmask '$lease_netmask' is no IPv4 address"
  is_ip4 "$lease_ip" && is_ip4 "$lease_netmask" || return 1
  fault="the address could not be set"
  ip addr flush dev "$1"
  ifconfig "$1" "$lease_ip" netmask "$lease_netmask" up || return 1
  if is_ip4 "$lease_gateway"; then
    ip route replace default via "$lease_gateway" dev "$1" || say "no route by gateway $lease_gateway"
  fi
  : >/etc/resolv.conf
  for server in $lease_dns; do
    is_ip4 "$server" && echo "nameserver $server" >>/etc/resolv.conf
  done
}

# Of the URLs that the command line or the lease gives, in their order and with commas between, the first whose daemon answers. Asked only where there is
# a choice: of URLs, or of cards of which another could lead to it.
find_daemon() {
  urls=${cmd_url:-$lease_url}
  fault="the daemon's URL '$urls' is not http://<IPv4 address>[:<port>]"
  others=$urls,
  while [ "$others" ]; do
    read_url "${others%%,*}" || return 1
    others=${others#*,}
  done
  [ "$linked" = " $card" ] && [ "$urls" = "${urls#*,}" ] && return 0
  fault= others=$urls,
  while [ "$others" ]; do
    read_url "${others%%,*}"
    others=${others#*,}
    request GET /livez
    [ "$status" = 000 ] || return 0
    fault="${fault:+$fault, }the daemon at $url does not answer: $reason"
    [ -z "$others" ] || say "the daemon at $url does not answer ($reason), asking the next"
  done
  return 1
}

# Leaves $card, $mac, $url, $daemon_ip and $daemon_port set.
network() {
  [ -z "$mac" ] || return 0
  if [ "$cmd_bond$cmd_vlan" ]; then stack_links; else find_cards; fi || return
  find_links || return 1
  faults=
  for card in $linked; do
    fault='no DHCP lease'
    { address_of_cmdline || address_by_dhcp "$card"; } &&
      use_address "$card" && find_daemon && break
    faults="$faults $card: $fault;"
    ip addr flush dev "$card"
    card=
  done
  why="no way to the daemon;$faults"
  [ "$card" ] || return 1
  read -r mac <"$SYS/class/net/$card/address"
  say "$card $mac has $lease_ip, the daemon is $url"
}

forget_network() {
  mac=
}
