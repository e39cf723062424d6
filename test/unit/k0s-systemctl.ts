// A systemctl for the services of tests, where no systemd can run: it starts what a unit's ExecStart says.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Units are read below `$K0S_STANDIN_ROOT`; a process that ended by itself leaves its unit `failed`, as Type=simple with no restart does. */
const SYSTEMCTL = `#!/bin/sh
units=\${K0S_STANDIN_ROOT-}/etc/systemd/system
state=\${K0S_STANDIN_ROOT-}/run/test-systemd
mkdir -p "$state"
verb=$1
shift
unit=\${1%.service}
read -r pid 2>/dev/null <"$state/$unit.pid" || pid=
alive() { [ -n "$pid" ] && [ -d "/proc/$pid" ] && ! grep -q '^State:.*Z' "/proc/$pid/status"; }
case $verb in
is-active)
  if alive; then echo active; exit 0; fi
  if [ -n "$pid" ]; then echo failed; else echo inactive; fi
  exit 3 ;;
start)
  alive && exit 0
  [ -f "$units/$unit.service" ] || exit 5
  setsid $(sed -n 's/^ExecStart=//p' "$units/$unit.service") >>"$state/$unit.log" 2>&1 </dev/null &
  echo $! >"$state/$unit.pid" ;;
stop)
  alive && kill "$pid"
  while alive; do sleep 0.05; done
  rm -f "$state/$unit.pid" ;;
reset-failed) alive || rm -f "$state/$unit.pid" ;;
esac
exit 0
`;

/** Writes `systemctl` into a directory that goes first in PATH. */
export function writeSystemctl(bin: string): void {
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, 'systemctl'), SYSTEMCTL, { mode: 0o755 });
}
