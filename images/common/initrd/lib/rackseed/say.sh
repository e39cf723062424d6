# What a person at the console sees, and the pauses between attempts.

# Each line goes to the console with the seconds since the kernel started, and to the kernel log at a level that the console does not show again.
say() {
  read -r up _ </proc/uptime
  printf 'rackseed: %s [%s s]\n' "$*" "$up" >>"${CONSOLE:-/dev/console}"
  printf '<7>rackseed: %s\n' "$*" >>"${KMSG:-/dev/kmsg}"
}

# Milliseconds since the kernel started, in $ms. The leading 1 keeps 0.05 s from being read as octal.
clock() {
  read -r up _ </proc/uptime
  ms=$((${up%.*} * 1000 + 1${up#*.}0 - 1000))
}

# A shell for whoever holds the console, only where the profile (config's `shell yes`) or the command line allows it; returns when it ends. A shell that
# shall have job control and Ctrl-C needs a terminal of its own, which /dev/console is not: the last of the kernel's consoles is what it stands for.
debug_shell() {
  [ "$cmd_shell" = 1 ] || [ "$shell" = yes ] || return 0
  terminal=console
  for terminal in $(cat "${CONSOLES:-/sys/class/tty/console/active}"); do :; done
  say "a shell on this console ($terminal), because the profile allows it: \`exit\` or Ctrl-D reboots into a new boot"
  say "the stage is in /lib/rackseed, its last answer in /tmp/answer, the kernel's log in dmesg"
  setsid -c sh <>"/dev/$terminal" >&0 2>&1
  say "the shell has ended"
}

# 2, 4, 8 ... 30 s for the first, second ... pause, plus up to as much again at random, so that a rack does not come back as one.
pause() { # N
  seconds=$((1 << ($1 > 5 ? 5 : $1)))
  [ "$seconds" -le 30 ] || seconds=30
  sleep $((seconds + ${RANDOM:-0} % (seconds + 1)))
}
