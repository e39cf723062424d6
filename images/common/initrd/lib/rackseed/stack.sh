# Links on top of cards, in dracut's words: bond=NAME:CARD,CARD[:OPTION=VALUE,...] and vlan=NAME:CARD, of which the VLAN may stand on the bond. Cards have the kernel's names.
MODPROBE=${MODPROBE:-modprobe}

# A link's name, which becomes part of a path: up to 15 characters.
is_link() { # TEXT
  is_word "$1" && [ "${#1}" -le 15 ]
}

# The id of the VLAN, in $vlan_id: what stands behind the dot of `eth0.42`, or at the end of `vlan42`; zeros in front are dracut's.
vlan_of() { # NAME
  vlan_id=${1##*[!0-9]}
  while :; do case $vlan_id in 0?*) vlan_id=${vlan_id#0} ;; *) break ;; esac; done
  is_number "$vlan_id" && [ "$vlan_id" -ge 1 ] && [ "$vlan_id" -le 4094 ]
}

# Drivers may come late: up to 10 s.
await_link() { # NAME
  polls=0
  until [ -e "$SYS/class/net/$1" ]; do
    why="there is no card $1; cards: $(ls "$SYS/class/net" | tr '\n' ' ')"
    [ "$polls" -lt 20 ] || return 1
    polls=$((polls + 1))
    sleep 0.5
    load_modules
  done
}

# The bond has the address of the card that booted: to DHCP and to the daemon it is still that machine.
make_bond() {
  why="bond=$cmd_bond is not NAME:CARD,CARD[:OPTION=VALUE,...]"
  case $cmd_bond in *[!A-Za-z0-9._,:=+-]*) return 2 ;; esac
  split : "$cmd_bond"
  bond=$part1 members=$part2 options=$part3
  [ "$parts" -ge 2 ] && [ "$parts" -le 3 ] && is_link "$bond" && [ "$members" ] || return 2
  for member in $(echo "$members" | tr , ' '); do
    is_link "$member" && [ "$member" != "$bond" ] || return 2
    await_link "$member" || return
  done
  if [ ! -e "$SYS/class/net/$bond" ]; then
    $MODPROBE bonding max_bonds=0
    why="no bond can be made: has the initrd the module bonding (kernel.optionalModules of the image)?"
    echo "+$bond" >"$SYS/class/net/bonding_masters" || return 2
  fi
  place=$SYS/class/net/$bond/bonding
  slaves=
  read -r slaves <"$place/slaves"
  # Most options cannot be set again once there are members. The mode comes first: what else is allowed depends on it; and a primary must be in the bond.
  [ "$slaves" ] || for option in $(echo "$options" | tr , '\n' | grep '^mode=') $(echo "$options" | tr , '\n' | grep -v -e '^mode=' -e '^primary='); do
    set_option "$option" || return 2
  done
  for member in $(echo "$members" | tr , ' '); do
    [ -e "$SYS/class/net/$member/master" ] && continue
    why="$member could not be put into $bond"
    ip link set "$member" down
    echo "+$member" >"$place/slaves" || return 1
  done
  for option in $(echo "$options" | tr , '\n' | grep '^primary='); do
    set_option "$option" || return 2
  done
  [ -z "$cmd_bootif" ] || ip link set "$bond" address "$cmd_bootif"
  cards=" $bond"
}

# Only where it is not so already.
set_option() { # OPTION=VALUE
  why="the bond does not take $1"
  is_word "${1%%=*}" && [ -e "$place/${1%%=*}" ] || return 1
  read -r now _ <"$place/${1%%=*}"
  [ "$now" = "${1#*=}" ] || echo "${1#*=}" >"$place/${1%%=*}"
}

make_vlan() {
  why="vlan=$cmd_vlan is not NAME:CARD, such as eth0.42:eth0"
  split : "$cmd_vlan"
  vlan=$part1 trunk=$part2
  [ "$parts" = 2 ] && is_link "$vlan" && is_link "$trunk" && [ "$vlan" != "$trunk" ] && vlan_of "$vlan" || return 2
  await_link "$trunk" || return
  if [ ! -e "$SYS/class/net/$vlan" ]; then
    $MODPROBE 8021q
    why="no VLAN can be made: has the initrd the module 8021q (kernel.optionalModules of the image)?"
    ip link add link "$trunk" name "$vlan" type vlan id "$vlan_id" || return 2
  fi
  ip link set "$trunk" up
  cards=" $vlan"
}

# Leaves what shall have the address in $cards. Made once: another attempt finds it as it is.
stack_links() {
  if [ "$cmd_bond" ]; then make_bond || return; fi
  if [ "$cmd_vlan" ]; then make_vlan || return; fi
}
