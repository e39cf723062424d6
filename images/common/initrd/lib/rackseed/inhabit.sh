# Makes the assembled root this node's own.
ROOT=${ROOT:-/root}

# What config says of who may log in, and the files for /config: kept in $SEED until there is a root. An answer that broke off has less than it counted.
inhabit_config() {
  rm -rf "$SEED"
  mkdir -m 0700 "$SEED" && mkdir "$SEED/config" || config_fault='room in the initrd'
  in_body= files=0 taken=0
  while read -r key rest || [ "$key" ]; do
    rest=${rest%"$CR"}
    case $in_body$key in
      "$CR" | '') in_body=1 ;;
      1ssh-key) printf '%s\n' "$rest" >>"$SEED/authorized_keys" ;;
      1ssh-host-key)
        printf %s "$rest" | base64 -d >"$SEED/host_key" && read -r first <"$SEED/host_key"
        [ "$first" = '-----BEGIN OPENSSH PRIVATE KEY-----' ] || config_fault=ssh-host-key
        first=
        ;;
      1files) is_number "$rest" && files=$rest || config_fault=files ;;
      1file) taken=$((taken + 1)); take_file "$rest" || config_fault="file $path" ;;
    esac
  done <"$ANSWER"
  [ "$taken" = "$files" ] || config_fault='files: not all of them came'
}

# Where root lives, in $home.
find_home() {
  home=/root
  while IFS=: read -r user _ _ _ _ place _; do
    [ "$user" = root ] && home=$place && break
  done <"$ROOT/etc/passwd"
  case $home in /*) is_config_path "${home#/}" ;; *) false ;; esac
}

# sshd starts where there is a host key (its unit asks for it), and lets those in whose key is here: of config, and of /config/authorized_keys.
settle_ssh() {
  why='the ssh keys could not be written'
  # One of /config's etc is the operator's own.
  if [ -e "$SEED/host_key" ] && [ ! -e "$ROOT/etc/ssh/ssh_host_ed25519_key" ]; then
    put_file "$SEED/host_key" "$ROOT" etc/ssh/ssh_host_ed25519_key || return
  fi
  # What vfat keeps has no mode, and sshd takes no host key that others may read.
  for file in "$ROOT"/etc/ssh/ssh_host_*_key; do
    [ ! -f "$file" ] || chmod 0600 "$file" || return
  done
  own=$ROOT$config_place/authorized_keys
  [ ! -f "$own" ] || { cat "$own"; echo; } >>"$SEED/authorized_keys"
  [ -s "$SEED/authorized_keys" ] || return 0
  find_home && make_parents "$ROOT" "${home#/}/.ssh/." && chmod 0700 "$ROOT$home/.ssh" || return
  rm -f "$ROOT$home/.ssh/authorized_keys"
  put_file "$SEED/authorized_keys" "$ROOT$home/.ssh" authorized_keys && chmod 0600 "$ROOT$home/.ssh/authorized_keys"
}

# Is FILE of /etc one that /config brought?
is_configured() { # FILE
  [ -f "$ROOT$config_place/etc/$1" ]
}

# Makes the overlay this node's own: who it is, and a network that its system keeps as it found it.
inhabit() {
  settle_config && settle_ssh || return 2
  rm -rf "$SEED"
  why="the node's own files could not be written"
  # Each may be a symbolic link in the image; what it points at is not ours to write.
  rm -f "$ROOT/etc/hostname" "$ROOT/etc/machine-id"
  echo "$node_name" >"$ROOT/etc/hostname" && echo "$machine_id" >"$ROOT/etc/machine-id" || return 2
  if ! is_configured resolv.conf; then
    rm -f "$ROOT/etc/resolv.conf"
    cat /etc/resolv.conf >"$ROOT/etc/resolv.conf" || return 2
  fi
  if ! is_configured hosts; then
    rm -f "$ROOT/etc/hosts"
    cat >"$ROOT/etc/hosts" <<HOSTS || return 2
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
$lease_ip $node_name
HOSTS
  fi
  hostname "$node_name"
  # For images with systemd-networkd: it renews the lease under the same client id and never takes the address away.
  # A bond or a VLAN has no address of its own that is burnt in; its name, which udev does not change, is ours. What it stands on is nobody's to set up again.
  match=PermanentMACAddress=$mac
  [ -z "$cmd_bond$cmd_vlan" ] || match=Name=$card
  mkdir -p /run/systemd/network
  cat >/run/systemd/network/10-rackseed.network <<NETWORK
[Match]
$match
[Network]
DHCP=ipv4
KeepConfiguration=yes
[DHCPv4]
ClientIdentifier=mac
VendorClassIdentifier=rackseed-os
UseHostname=no
NETWORK
}
