# Is the image what its maker signed (minisign), and is each of its blocks what the root hash says (dm-verity)?
STAGE=${STAGE:-/run/initramfs}
KEYS=${KEYS:-/etc/rackseed}
STICK=${STICK:-/run/rackseed/stick}
TRUST=${TRUST:-/tmp/trust}
# Bytes of a manifest or a signature; those that we make have some thousands.
MOST_BYTES=1048576
MAPPED=rackseed-root

integrity_config() {
  manifest_url= signature_url= verity_root= verity_blocks=
  if answered verity; then
    verity_root=${value%% *} verity_blocks=${value#* }
    is_verity || config_fault=verity
  fi
  if answered manifest-url; then
    absolute_url "$value" && manifest_url=$absolute || config_fault=manifest-url
    answered manifest-digest; manifest_digest=${value#sha256:}
    is_hex "$manifest_digest" 64 || config_fault=manifest-digest
    answered signature-url
    absolute_url "$value" && signature_url=$absolute || config_fault=signature-url
    answered signature-digest; signature_digest=${value#sha256:}
    is_hex "$signature_digest" 64 || config_fault=signature-digest
  fi
  answered min-serial; min_serial=${value:-0}
  is_number "$min_serial" || config_fault=min-serial
}

# The hash tree follows the blocks that it is of, in the same file.
is_verity() {
  is_hex "$verity_root" 64 && is_number "$verity_blocks" && [ "$verity_blocks" -ge 1 ] && [ $((verity_blocks * 4096)) -lt "$squashfs_size" ]
}

# An initrd that was built with keys boots only what one of them signed. Keys of a stick count where the initrd has none: a stick must not open what was closed.
trusted() {
  keys=$KEYS/keys
  is_there "$keys"/*.pub || keys=$STICK/keys
  is_there "$keys"/*.pub || { trust=none; return 0; }
  mkdir -p "$TRUST"
  why="signature: the image is not signed, and this initrd boots only what its keys have signed"
  [ "$manifest_url" ] || return 2
  why="signature: there are keys in $keys, but this initrd has no minisign to check them with"
  command -v minisign >/dev/null || return 2
  small manifest "$manifest_url" "$manifest_digest" && small signature "$signature_url" "$signature_digest" || return
  signer= said=
  for key in "$keys"/*.pub; do
    minisign -Vm "$TRUST/manifest" -x "$TRUST/signature" -p "$key" >"$TRUST/said" 2>&1 && signer=${key##*/} && break
    line=
    read -r line <"$TRUST/said"
    said="$said ${key##*/}: ${line:-does not verify};"
  done
  why="signature: no key has signed this manifest;$said"
  [ "$signer" ] || return 2
  read_manifest || return
  trust=$signer
  keep_text "$manifest_digest" "$TRUST/manifest"
  keep_text "$signature_digest" "$TRUST/signature"
  say "image $image_name, serial $serial, is signed ($signer)"
}

is_there() { [ -e "$1" ]; }

# The file that config calls by this digest, in $TRUST/NAME. Not to be had: another attempt may help. Other bytes than config says, at each of three tries: not.
small() { # NAME URL DIGEST
  # A state disk may have it from an earlier boot: without a daemon it comes from nowhere else.
  if kept_text "$3" "$TRUST/$1" && [ "$(sha256sum <"$TRUST/$1")" = "$3  -" ]; then return 0; fi
  round=1
  while :; do
    case $2 in https:*) unchecked=--no-check-certificate ;; *) unchecked= ;; esac
    wget -q $STALL $unchecked -O - "$2" 2>"$WGET_ERR" | head -c $((MOST_BYTES + 1)) >"$TRUST/$1"
    complaint=
    read -r complaint <"$WGET_ERR"
    size=$(stat -c %s "$TRUST/$1")
    why="$1: it is larger than $MOST_BYTES bytes"
    [ "$size" -le "$MOST_BYTES" ] || return 2
    found=$(sha256sum "$TRUST/$1")
    found=${found%% *}
    [ "$found" != "$3" ] || return 0
    case $complaint in *'HTTP/1.'[01]' 503'*) await_turn "$complaint" && continue; why="$1: $why"; return 2 ;; esac
    if [ "$size" = 0 ]; then
      why="$1: could not be fetched: ${complaint:-the answer was empty}" code=1
    else
      why="$1: it has sha256 $found, config says $3" code=2
    fi
    [ "$round" -lt 3 ] || return "$code"
    round=$((round + 1))
    pause 1
  done
}

# What was signed counts: it says which bytes the squashfs must have, whatever config says, and config must not mean others.
read_manifest() {
  image_name= arch= serial= signed_digest= signed_size= signed_root= signed_blocks=
  first= bad=
  # No `until chunk`: lines that are unknown here say nothing to this stage.
  while read -r key one two rest; do
    if [ -z "$first" ]; then
      first="$key $one"
      continue
    fi
    case $key in
      name) [ -z "$image_name" ] || bad=name; image_name=$one ;;
      arch) [ -z "$arch" ] || bad=arch; arch=$one ;;
      serial) [ -z "$serial" ] || bad=serial; serial=$one ;;
      squashfs) [ -z "$signed_digest" ] || bad=squashfs; signed_digest=${one#sha256:} signed_size=$two ;;
      verity) [ -z "$signed_root" ] || bad=verity; signed_root=$one signed_blocks=$two ;;
    esac
  done <"$TRUST/manifest"
  why="manifest: it is '$first', this initrd reads 'rackseed-image 1'"
  [ "$first" = 'rackseed-image 1' ] || return 2
  is_word "$image_name" || bad=name
  is_number "$serial" || bad=serial
  is_hex "$signed_digest" 64 && is_number "$signed_size" || bad=squashfs
  why="manifest: no usable $bad in it"
  [ -z "$bad" ] || return 2
  case $(uname -m) in x86_64) ours=amd64 ;; aarch64) ours=arm64 ;; *) ours=$arch ;; esac
  why="manifest: image $image_name is for $arch, this machine is $ours"
  [ "$arch" = "$ours" ] || return 2
  why="manifest: it is of the squashfs $signed_digest, config wants $squashfs_digest"
  [ "$signed_digest" = "$squashfs_digest" ] || return 2
  squashfs_size=$signed_size verity_root=$signed_root verity_blocks=$signed_blocks
  why="manifest: no usable verity in it"
  [ -z "$verity_root" ] || is_verity || return 2
  for floor in "the profile's minSerial:$min_serial" "the floor of this initrd:$(floor_in "$KEYS")" "the floor on the stick:$(floor_in "$STICK")"; do
    why="manifest: image $image_name has serial $serial, older than ${floor##*:} (${floor%:*})"
    [ "$serial" -ge "${floor##*:}" ] || return 2
  done
}

floor_in() { # DIRECTORY; 0 where there is none. What is no number is a floor that nothing reaches.
  floor=0
  [ ! -e "$1/floor" ] || read -r floor <"$1/floor"
  is_number "$floor" || floor=999999999999999
  echo "$floor"
}

# Can the kernel check the blocks one by one? Then nothing needs to be read before the mount.
lazily() {
  [ "$verity_root" ] && command -v dmsetup >/dev/null || return 1
  [ "$can_verity" ] || { modprobe -q dm_verity; dmsetup targets 2>/dev/null | grep -q ^verity && can_verity=yes || can_verity=no; }
  [ "$can_verity" = yes ]
}

# The file is not the image: it goes, wherever it lies, so that it is fetched again.
image_is_bad() {
  rm -f "$image_file" "$image_file.part"
}

# The squashfs on $STAGE/lower, through dm-verity where there is one. A block that does not verify has the whole fetched again, once.
lower() {
  image_place
  [ "$lower_of" != "$image_file" ] || return 0
  close_image
  for round in first second; do
    open_image && return
    code=$?
    close_image
    [ "$code" = 3 ] || return "$code"
    say "$why ($round download)"
    next_place
    image_is_bad
    [ "$round" = second ] || fetch || return
  done
  return 2
}

open_image() {
  mkdir -p "$STAGE/lower"
  why='the squashfs could not be attached to a loop device'
  image_loop=$(losetup -f) && losetup -r "$image_loop" "$image_file" || { image_loop=; return 2; }
  image_device=$image_loop
  if lazily; then
    # Without udev, which does not run yet, dmsetup makes the node itself.
    why="dm-verity takes neither root hash nor blocks: $verity_root $verity_blocks"
    DM_DISABLE_UDEV=1 dmsetup create "$MAPPED" --readonly --table "0 $((verity_blocks * 8)) verity 1 $image_loop $image_loop 4096 4096 $verity_blocks $verity_blocks sha256 $verity_root -" || return 2
    image_device=/dev/mapper/$MAPPED
  fi
  why='the squashfs could not be mounted'
  mount -t squashfs -o ro "$image_device" "$STAGE/lower" || { blame_image && return 3; return 2; }
  if [ "$image_device" != "$image_loop" ]; then
    # Nobody hears of a system whose first program cannot be read. It is read anyway in a moment, so this costs nothing.
    while read -r file; do
      cat "$STAGE/lower$file" >/dev/null || { blame_image && return 3; }
    done <"${FIRST:-$LIB/first}"
  fi
  lower_of=$image_file
  say "squashfs mounted${verity_root:+$([ "$image_device" = "$image_loop" ] || echo ', dm-verity checks what is read')}"
}

close_image() {
  [ "$image_loop" ] || return 0
  umount "$STAGE/lower"
  [ ! -e "/dev/mapper/$MAPPED" ] || DM_DISABLE_UDEV=1 dmsetup remove "$MAPPED"
  losetup -d "$image_loop"
  image_loop= lower_of=
}

# Whether it was a block that did not verify, whatever failed; then $why names it.
blame_image() {
  [ "$image_device" = "/dev/mapper/$MAPPED" ] && [ -e "$image_device" ] || return 1
  case $(dmsetup status "$MAPPED") in *' verity C'*) ;; *) return 1 ;; esac
  block=$(dmesg | sed -n 's/.*verity: .*block \([0-9][0-9]*\) is corrupted.*/\1/p' | tail -n 1)
  why="squashfs: block ${block:-?} does not verify"
}

# From now on the system reads what it likes. Beside it, all blocks are read once, by a process that needs nothing of the image (lib/rackseed/watch); its
# verdict lies in /run/rackseed/image-check, and the agent waits for it before the node is ready.
watch_image() {
  [ "$image_device" = "/dev/mapper/$MAPPED" ] || return 0
  echo 'failed the check of the image could not be started' >/run/rackseed/image-check
  place=$STAGE/watch
  mkdir -p "$place" && mount -t tmpfs -o size=4m,mode=0700 watch "$place" &&
    cp /bin/busybox "$LIB/say.sh" "$LIB/cmdline.sh" "$LIB/request.sh" "$LIB/talk" "$LIB/watch" "$place/" || return
  for applet in cat dd mv nc timeout sleep sync rm reboot umount; do ln -s busybox "$place/$applet"; done
  (
    cd "$place" || exit
    export url boot token daemon_ip daemon_port verity_blocks cmd_wait
    # The system may have its disks elsewhere by then; from here, the way is the same.
    # The same way before and after the places move.
    device=../../..$image_device bad=${image_file#"$STAGE/"} exec ./busybox sh ./watch <"$image_device" >/dev/console 2>/dev/kmsg 8>/dev/null
  ) &
  renice -n 19 -p "$!"
  ionice -c 3 -p "$!"
  # Until it has everything open: what comes next moves /dev and /run away.
  polls=0
  until read -r verdict _ </run/rackseed/image-check && [ "$verdict" = running ]; do
    [ "$polls" -lt 100 ] || return
    polls=$((polls + 1))
    sleep 0.1
  done
}
