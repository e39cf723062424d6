# Makes the assembled root this node's own.
ROOT=${ROOT:-/root}

# Makes the overlay this node's own: who it is, and a network that its system keeps as it found it.
inhabit() {
  why="the node's own files could not be written"
  # Each may be a symbolic link in the image; what it points at is not ours to write.
  rm -f "$ROOT/etc/hostname" "$ROOT/etc/hosts" "$ROOT/etc/machine-id" "$ROOT/etc/resolv.conf"
  echo "$node_name" >"$ROOT/etc/hostname" &&
    echo "$machine_id" >"$ROOT/etc/machine-id" &&
    cat /etc/resolv.conf >"$ROOT/etc/resolv.conf" &&
    cat >"$ROOT/etc/hosts" <<HOSTS || return 2
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
$lease_ip $node_name
HOSTS
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
